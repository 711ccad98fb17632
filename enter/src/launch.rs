//! The parent's part of the dance: locks, the clone, the id map, the network, and then the child may go.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Result;
use d_common::container::{self, Sharing};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use d_common::runtime::runtime_dir;
use d_common::sys::{self, Fork, SignalSet};
use d_common::userns;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::args::Args;
use crate::cgroup::Cgroup;
use crate::channel::{Channel, Message};
use crate::command::Filters;
use crate::directory::Filesystem;
use crate::fuse::Server;
use crate::init::{self, Start};
use crate::netup::Netup;
use crate::network::Net;
use crate::newnet::When;
use crate::plan::Plan;
use crate::process::Process;
use crate::record::Record;
use crate::scratch::Scratch;
use crate::status::Status;
use crate::supervise::{self, Container};
use crate::terminal::Look;

/// The descriptors that the options name.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// `--status-fd`
    pub status: Option<OwnedFd>,
    /// `--ready-fd`
    pub ready: Option<OwnedFd>,
    /// `--block-fd`
    pub block: Option<OwnedFd>,
    /// `--pid-file`
    pub pid_file: Option<PathBuf>,
    /// Where containers are recorded for `--join`.
    pub records: Option<PathBuf>,
}

impl Descriptors {
    /// Takes them over.
    ///
    /// # Errors
    /// [`Exit::Enter`] for one that is not open.
    pub fn take(args: &Args) -> Result<Self> {
        let take = |fd: Option<i32>, option: &str| {
            fd.map(|fd| sys::inherited_fd(fd).or_exit(Exit::Enter, || format!("--{option} {fd}: no such descriptor")))
                .transpose()
        };
        let named = [("status", args.status_fd), ("ready", args.ready_fd), ("block", args.block_fd)];
        let mut named: Vec<_> = named.into_iter().filter_map(|(option, fd)| Some((fd?, option))).collect();
        named.extend(args.keep_fd.iter().map(|fd| (*fd, "keep")));
        for (number, (fd, option)) in named.iter().enumerate() {
            // The first three are copied, so the command keeps its own.
            if let Some((_, other)) =
                named[..number].iter().find(|(same, other)| same == fd && (*fd > 2 && other != option))
            {
                fail!(Exit::Enter, "--{option}-fd {fd}: --{other}-fd has taken that descriptor; give it another one");
            }
        }
        for fd in &args.keep_fd {
            if *fd > 2 && fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                fail!(Exit::Enter, "--keep-fd {fd}: no such descriptor");
            }
        }
        Ok(Self {
            status: take(args.status_fd, "status-fd")?,
            ready: take(args.ready_fd, "ready-fd")?,
            block: take(args.block_fd, "block-fd")?,
            pid_file: args.pid_file.as_ref().map(PathBuf::from),
            records: records()?,
        })
    }
}

/// The runtime directory; none where none can be made, without which there is no `--join`.
fn records() -> Result<Option<PathBuf>> {
    match runtime_dir("d-enter") {
        Err(error) if error.root_cause().is::<io::Error>() => Ok(None),
        found => found.map(Some),
    }
}

/// Runs the container. Returns the command's exit code.
///
/// # Errors
/// [`Exit::Unavailable`] when the id map cannot be written, and nothing has happened yet; [`Exit::Enter`] for all else that
/// fails on this side. The child reports its own failures.
pub fn run(plan: &Plan, filters: &Filters, descriptors: &mut Descriptors, report: Report) -> Result<u8> {
    die_with_caller(&plan.process)?;
    let _locks = lock(plan)?;
    let beside = plan.ephemeral.as_ref().and_then(|ephemeral| ephemeral.beside.as_ref());
    let _scratch = beside.map(|path| Scratch::make(path, plan)).transpose()?;
    let network = When::of(plan, descriptors.status.is_some());
    let Child { pid, pidfd, channel, signals } = spawn(namespaces(plan, network), |channel, look| {
        let block = descriptors.block.as_ref();
        init::run(plan, network, &Start { channel, look, filters, block, limited: !plan.limits.is_empty() })
    })?;
    report.debug(format!("the namespaces are made, their init is pid {}", pid.as_raw_nonzero()));
    let (records, blocked) = (descriptors.records.take(), descriptors.block.is_some());
    let (mut status, netup, cgroup) = match prepare(plan, pid, descriptors) {
        Ok(ControlFlow::Continue(prepared)) => prepared,
        Ok(ControlFlow::Break(code)) => {
            let _ = abandon(pid);
            return Ok(code);
        }
        Err(error) => {
            let _ = abandon(pid);
            return Err(error);
        }
    };
    if let Some(netup) = &netup {
        // stdout is the command's; only ports that were chosen here are news.
        netup.chosen.iter().for_each(|forward| report.note(forward));
        if status.lines.is_some() && !plan.publish.is_empty() {
            match netup.forwards() {
                Ok(forwards) => status.ports(&forwards),
                Err(error) => report.warn(error),
            }
        }
    }
    report.debug("ids are mapped and the network is there: the init builds the root");
    let record = records.map(|dir| Record::new(dir, pid, filters));
    channel.send(&Message::Go);
    let process = &plan.process;
    let overlay = plan.ephemeral.as_ref().map(|_| Server::new(plan));
    supervise::follow(&mut Container {
        process,
        channel,
        pid,
        pidfd,
        overlay,
        netup,
        record,
        cgroup,
        signals,
        blocked,
        status,
        report,
    })
}

/// `--die-with-parent`.
///
/// # Errors
/// [`Exit::Enter`] when the parent has ended before.
pub fn die_with_caller(process: &Process) -> Result<()> {
    if process.die_with_parent {
        let parent = rustix::process::getppid();
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .or_exit(Exit::Enter, || "cannot set PDEATHSIG")?;
        if rustix::process::getppid() != parent {
            fail!(Exit::Enter, "the caller has ended already");
        }
    }
    Ok(())
}

/// A child that waits for [`Message::Go`].
pub struct Child {
    /// Its pid.
    pub pid: Pid,
    /// A handle of it.
    pub pidfd: OwnedFd,
    /// The line to it.
    pub channel: Channel,
    /// All signals, which are blocked from now on.
    pub signals: SignalSet,
}

/// Clones a child into new namespaces. It runs `live` with its end of the line and the look of the caller's terminal,
/// and exits with what that returns.
///
/// # Errors
/// [`Exit::Enter`] with the kernel's reason.
pub fn spawn(namespaces: i32, live: impl FnOnce(Channel, Option<Look>) -> u8) -> Result<Child> {
    let (channel, childs) = Channel::pair().or_exit(Exit::Enter, || "cannot make a socket pair")?;
    // A caller that ignores it would have the kernel reap our children.
    sys::default_signal(Signal::CHILD.as_raw());
    // Blocked before the clone: none may be lost between the two.
    let signals = SignalSet::all();
    signals.block().or_exit(Exit::Enter, || "cannot block signals")?;
    let look =
        [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].into_iter().find_map(Look::of);
    let fork = sys::clone_process(namespaces).map_err(userns::explain);
    match fork.or_exit(Exit::Enter, || "cannot make the namespaces")? {
        Fork::Child => {
            drop(channel);
            sys::exit_now(live(childs, look))
        }
        Fork::Parent { pid, pidfd } => Ok(Child { pid, pidfd, channel, signals }),
    }
}

/// The end of a child that is not followed further.
///
/// # Errors
/// waitpid(2)'s.
pub fn abandon(pid: Pid) -> io::Result<()> {
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
    Ok(())
}

/// The namespaces that the child is born into; the cgroup namespace comes later, and mostly that of the network.
fn namespaces(plan: &Plan, network: When) -> i32 {
    let when = |on: bool, flag: i32| if on { flag } else { 0 };
    sys::CLONE_NEWUSER
        | sys::CLONE_NEWNS
        | when(!plan.shared.pid, sys::CLONE_NEWPID)
        | when(!plan.shared.ipc, sys::CLONE_NEWIPC)
        | when(!plan.shared.uts, sys::CLONE_NEWUTS)
        | when(plan.net.is_new() && network == When::Born, sys::CLONE_NEWNET)
}

/// What the child waits for.
type Prepared = (Status, Option<Netup>, Option<Cgroup>);

/// Makes it: its map, its network, and its limits. Breaks with the exit code where a signal came that ends all.
fn prepare(plan: &Plan, pid: Pid, descriptors: &mut Descriptors) -> Result<ControlFlow<u8, Prepared>> {
    userns::write_map(pid, &plan.map, plan.privileged)?;
    // Taken only now: without a map this may be tried again with another.
    let taken = std::mem::take(descriptors);
    let mut status = Status::new(taken.status, taken.ready, taken.pid_file);
    status.child(pid.as_raw_nonzero().get());
    let netup = match &plan.net {
        Net::User(options) => match Netup::start(pid, options, &plan.publish)? {
            ControlFlow::Continue(netup) => Some(netup),
            ControlFlow::Break(signal) => {
                let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
                status.exited(code);
                return Ok(ControlFlow::Break(code));
            }
        },
        _ => None,
    };
    // Last: a cgroup with a process in it cannot be removed, if something else fails.
    let cgroup = if plan.limits.is_empty() { None } else { Some(Cgroup::make(pid, &plan.limits)?) };
    Ok(ControlFlow::Continue((status, netup, cgroup)))
}

/// DIR is locked as long as this process lives: nobody replaces or removes it meanwhile. An overlay's upper directory can be
/// used once at a time.
fn lock(plan: &Plan) -> Result<Vec<OwnedFd>> {
    let shown = plan.dir.display();
    let dir = container::lock(&plan.dir, Sharing::Shared).or_exit(Exit::Enter, || format!("cannot lock {shown}"))?;
    let Some(dir) = dir else {
        fail!(Exit::Enter, "cannot enter {shown}: it is being replaced or removed{}", pids(&plan.dir))
    };
    let mut locks = vec![dir];
    if let (Filesystem::Overlay { upper, .. }, None) = (&plan.filesystem, &plan.ephemeral) {
        match container::lock(upper, Sharing::Exclusive)
            .or_exit(Exit::Enter, || format!("cannot lock {}", upper.display()))?
        {
            Some(lock) => locks.push(lock),
            None => fail!(
                Exit::Enter,
                "cannot enter {shown}: its overlay is in use{}; --join enters the running container, --ephemeral makes another",
                pids(upper)
            ),
        }
    }
    Ok(locks)
}

fn pids(dir: &std::path::Path) -> String {
    let pids: Vec<String> = container::lock_holders(dir).iter().map(u32::to_string).collect();
    if pids.is_empty() { String::new() } else { format!(" by pid {}", pids.join(", ")) }
}
