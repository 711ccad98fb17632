//! `--join`: a command in a running container, in the place of the command that runs there.
//!
//! All that is taken over is read before anything is changed; then a child leaves our namespaces for the container's, user
//! namespace first (setns(2) on a pidfd does that in one step), takes its root, and stays beside the joined command as the
//! container's init stays beside the first one. It is not dumpable before it is inside, so nothing there can look into it.

mod state;
mod target;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use d_common::beneath::{Link, Root};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::idmap::{Extent, to_outside};
use d_common::output::print;
use d_common::report::Report;
use d_common::runtime;
use d_common::sys::{self, Fork};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::DumpableBehavior;
use rustix::thread::ThreadNameSpaceType;

use crate::args::Args;
use crate::attend::{self, Rest};
use crate::capabilities::Capabilities;
use crate::cgroup;
use crate::channel::Message;
use crate::command::Filters;
use crate::env::{DEFAULT_PATH, Environment, parse_env_file};
use crate::init::Start;
use crate::launch::{self, Descriptors};
use crate::plan::Caller;
use crate::process::{self, Groups, Process};
use crate::rlimit::Limit;
use crate::status::Status;
use crate::supervise::{self, Container};
use crate::terminal;
use crate::user::{self, User};
use crate::waiting::Waiting;
use state::State;
use target::Target;

/// The largest environment and passwd file that are read, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// Joins the container of `operand`. Returns the exit code of the command.
///
/// # Errors
/// [`Exit::Enter`] with the reason why it cannot be joined.
pub fn run(operand: &OsStr, args: &Args, descriptors: Descriptors, report: Report) -> Result<u8> {
    let target = target::find(operand, &runtime::runtime_dir("d-enter")?)?;
    let place = Place::open(&target)?;
    let found = Found::read(&target, &place)?;
    target.must_live()?;
    let caller = Caller::read(args, &Args::default())?;
    let process = decide(args, &caller, &found)?;
    if args.dry_run {
        print(format!("{:#}\n", serde_json::to_value(&process)?).as_bytes())?;
        return Ok(0);
    }
    let filters = match &target.filters {
        Some(filters) => filters.clone(),
        None => Filters::builtin(process.capabilities.bounding)?,
    };
    launch::die_with_caller(&process)?;
    let child = launch::spawn(0, |channel, look| {
        let start = Start { channel, look, filters: &filters, block: descriptors.block.as_ref(), limited: false };
        let result = inside(&place, &found, &process, &start);
        attend::end(&start.channel, result)
    })?;
    if let Err(error) = cgroup::join(child.pid, target.pid) {
        let _ = launch::abandon(child.pid);
        return Err(error);
    }
    child.channel.send(&Message::Go);
    let blocked = descriptors.block.is_some();
    let status = Status::new(descriptors.status, descriptors.ready, descriptors.pid_file);
    supervise::follow(&mut Container {
        process: &process,
        channel: child.channel,
        pid: child.pid,
        pidfd: child.pidfd,
        overlay: None,
        netup: None,
        record: None,
        cgroup: None,
        signals: child.signals,
        blocked,
        status,
        report,
    })
}

/// Handles of where the running command is.
struct Place {
    pidfd: OwnedFd,
    /// The namespaces that are not ours already.
    namespaces: ThreadNameSpaceType,
    root: OwnedFd,
}

impl Place {
    fn open(target: &Target) -> Result<Self> {
        let pid = target.pid;
        let cannot = || format!("cannot join {pid}");
        let inode = |pid: &str, name: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|m| m.ino());
        let mut namespaces = ThreadNameSpaceType::empty();
        for (name, flag) in [
            ("user", ThreadNameSpaceType::USER),
            ("mnt", ThreadNameSpaceType::MOUNT),
            ("pid", ThreadNameSpaceType::PROCESS_ID),
            ("net", ThreadNameSpaceType::NETWORK),
            ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
            ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
            ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
            ("time", ThreadNameSpaceType::TIME),
        ] {
            match inode("self", name) {
                // A kernel without such namespaces.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                own => {
                    let theirs = inode(&pid.to_string(), name).or_exit(Exit::Enter, cannot)?;
                    namespaces.set(flag, own.or_exit(Exit::Enter, cannot)? != theirs);
                }
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).or_exit(Exit::Enter, cannot)?;
        let pidfd = target.pidfd.try_clone().or_exit(Exit::Enter, cannot)?;
        Ok(Self { pidfd, namespaces, root })
    }

    /// Reads a file of a user of the container through a child that joins the user namespace alone, where it may do that.
    fn read_as_owner(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        match sys::clone_process(0)? {
            Fork::Child => {
                let copy = || -> io::Result<u64> {
                    rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), ThreadNameSpaceType::USER)?;
                    io::copy(&mut File::open(path)?.take(MAX_TEXT), &mut File::from(input))
                };
                sys::exit_now(u8::from(copy().is_err()))
            }
            Fork::Parent { pid, .. } => {
                drop(input);
                let mut bytes = Vec::new();
                File::from(output).read_to_end(&mut bytes)?;
                let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
                match status.and_then(|(_, status)| status.exit_status()) {
                    Some(0) => Ok(bytes),
                    _ => Err(io::ErrorKind::PermissionDenied.into()),
                }
            }
        }
    }

    /// The text of a file of the container, empty without.
    fn text(&self, path: &str) -> String {
        let mut text = Vec::new();
        // O_NONBLOCK: it may be a FIFO.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let open = self.root.try_clone().map(Root::from_fd);
        if let Ok(fd) = open.and_then(|root| root.open_at(path, flags, Mode::empty(), Link::Follow)) {
            let _ = File::from(fd).take(MAX_TEXT).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What is known of the running command.
struct Found {
    state: State,
    environment: Vec<OsString>,
    workdir: PathBuf,
    limits: Vec<Limit>,
    uids: Vec<Extent>,
    gids: Vec<Extent>,
    /// Whether groups cannot be changed in its user namespace.
    groups_are_fixed: bool,
    passwd: String,
    group: String,
}

impl Found {
    fn read(target: &Target, place: &Place) -> Result<Self> {
        let proc = PathBuf::from(format!("/proc/{}", target.pid));
        let cannot = || format!("cannot join {}", target.pid);
        let bytes = |name: &str| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(proc.join(name))?.take(MAX_TEXT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let text = |name: &str| bytes(name).map(|b| String::from_utf8_lossy(&b).into_owned());
        let (uids, gids) =
            (text("uid_map").or_exit(Exit::Enter, cannot)?, text("gid_map").or_exit(Exit::Enter, cannot)?);
        let (uids, gids) = (state::parse_map(&uids), state::parse_map(&gids));
        let link = |name: &str| fs::read_link(proc.join(name)).or_exit(Exit::Enter, cannot);
        let (root, cwd) = (link("root")?, link("cwd")?);
        let environ = match bytes("environ") {
            // A file of its user's alone.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => place.read_as_owner(&proc.join("environ")),
            environ => environ,
        };
        Ok(Self {
            state: State::parse(&text("status").or_exit(Exit::Enter, cannot)?, &uids, &gids),
            environment: state::parse_environ(&environ.or_exit(Exit::Enter, cannot)?),
            workdir: Path::new("/").join(cwd.strip_prefix(&root).unwrap_or(Path::new(""))),
            limits: state::parse_limits(&text("limits").unwrap_or_default()),
            groups_are_fixed: text("setgroups").is_ok_and(|t| t.trim() == "deny"),
            passwd: place.text("etc/passwd"),
            group: place.text("etc/group"),
            uids,
            gids,
        })
    }
}

/// What the joining command is: the running one's equal, but for what the options say.
fn decide(args: &Args, caller: &Caller, found: &Found) -> Result<Process> {
    let state = &found.state;
    let user = match (&args.user, state.uid, state.gid) {
        (Some(spec), ..) => user::resolve(spec, &found.passwd, &found.group)?,
        (None, Some(uid), Some(gid)) => User {
            groups: state.groups.clone(),
            ..user::resolve(&format!("{uid}:{gid}"), &found.passwd, &found.group)?
        },
        _ => fail!(Exit::Enter, "the running command's user does not exist inside; name one with --user"),
    };
    for (id, map, what) in [(user.uid, &found.uids, "user"), (user.gid, &found.gids, "group")] {
        if to_outside(map, id).is_none() {
            fail!(Exit::Enter, "{what} {id} is not mapped in the container");
        }
    }
    let capabilities = match (Some(user.uid) == state.uid, user.uid) {
        (true, _) => state.capabilities,
        (false, uid) => another_users(state, uid),
    };
    let pty = process::pty(args.tty.unwrap_or_default(), caller);
    let environment = environment(args, caller, found, &user, pty.contains(&true))?;
    let mut rlimits: Vec<Limit> = found.limits.iter().map(Limit::within_own).collect();
    rlimits.extend(Limit::parse_all(&args.ulimit)?);
    Ok(Process {
        groups: if found.groups_are_fixed { Groups::Keep } else { Groups::Set(user.groups.clone()) },
        capabilities,
        no_new_privs: state.no_new_privs,
        command: if args.operands.is_empty() { vec!["/bin/sh".into()] } else { args.operands.clone() },
        path: environment.get("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)).to_owned(),
        environment: environment.strings().collect(),
        workdir: match &args.workdir {
            Some(dir) if !Path::new(dir).is_absolute() => {
                fail!(Exit::Enter, "--workdir {:?} is not an absolute path", dir.display().to_string())
            }
            Some(dir) => dir.clone(),
            None => found.workdir.clone().into(),
        },
        make_workdir: false,
        umask: args.umask.as_deref().map_or(Ok(state.umask), |mask| process::umask(Some(mask)))?,
        rlimits,
        keep_fds: args.keep_fd.clone(),
        stop_signal: rustix::process::Signal::TERM.as_raw(),
        pty,
        background: process::in_background(pty, caller),
        as_pid_1: false,
        die_with_parent: args.die_with_parent,
        user,
    })
}

/// The capabilities of another user in the same place: root has what the running command's children could come to have.
fn another_users(state: &State, uid: u32) -> Capabilities {
    let bounding = state.capabilities.bounding;
    let root = if state.no_new_privs { state.capabilities.permitted } else { bounding };
    let held = if uid == 0 { root } else { 0 };
    Capabilities { bounding, permitted: held, effective: held, inheritable: 0, ambient: 0 }
}

fn environment(args: &Args, caller: &Caller, found: &Found, user: &User, terminal: bool) -> Result<Environment> {
    let mut env = Environment::default();
    let lookup = |name: &OsStr| caller.environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    for string in &found.environment {
        env.set_spec(string, &|_| None)?;
    }
    if args.user.is_some() {
        env.set("HOME", &user.home);
    }
    if terminal {
        // The terminal is the caller's, whatever the container was started from.
        env.set("TERM", lookup(OsStr::new("TERM")).unwrap_or("xterm".into()));
    }
    for file in &caller.env_files {
        for spec in parse_env_file(file)? {
            env.set_spec(&spec, &lookup)?;
        }
    }
    for spec in &args.env {
        env.set_spec(spec, &lookup)?;
    }
    Ok(env)
}

/// The child: from here into the container.
fn inside(place: &Place, found: &Found, process: &Process, start: &Start<'_>) -> Result<u8> {
    attend::may_go(&start.channel)?;
    let _ = sys::wipe_arguments();
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .or_exit(Exit::Enter, || "cannot become undumpable")?;
    rustix::thread::move_into_thread_name_spaces(place.pidfd.as_fd(), place.namespaces).or_exit(
        Exit::Enter,
        || "cannot join its namespaces (another user's? only their owner and root may enter them)",
    )?;
    rustix::process::fchdir(&place.root).or_exit(Exit::Enter, || "cannot enter its root")?;
    rustix::process::chroot(".").or_exit(Exit::Enter, || "cannot take its root")?;
    // An id that exists inside, so that a terminal can be made.
    let id = |map: &[Extent], own: u32| if to_outside(map, 0).is_some() { 0 } else { own };
    let (uid, gid) =
        (Uid::from_raw(id(&found.uids, process.user.uid)), Gid::from_raw(id(&found.gids, process.user.gid)));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .or_exit(Exit::Enter, || "cannot take a group of the container")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).or_exit(Exit::Enter, || "cannot take a user of the container")?;
    rustix::process::setsid().or_exit(Exit::Enter, || "cannot start a session")?;
    let terminal = if process.pty.contains(&true) { Some(open_terminal(process, start)?) } else { None };
    if let Some(block) = start.block {
        let _ = rustix::io::read(block, &mut [0u8; 1]);
    }
    let command = Waiting::fork(process, start, |_| Ok(()))?;
    command.identify();
    command.settle(terminal.as_ref());
    attend::run(process, start, command, terminal.as_ref(), Rest::Stay)
}

fn open_terminal(process: &Process, start: &Start<'_>) -> Result<OwnedFd> {
    let open = || -> io::Result<_> {
        let dev = rustix::fs::open("/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        terminal::open(&dev, start.look.as_ref().filter(|_| !process.background), None)
    };
    let (master, slave) = open()
        .or_exit(Exit::Enter, || "cannot open a terminal in the container's /dev/pts; --tty=never does without")?;
    start.channel.send_with(&Message::Terminal, Some(master.as_fd()));
    Ok(slave)
}

#[cfg(test)]
#[path = "join/tests.rs"]
mod tests;
