//! The last steps before the command: each forbids the one before it, so their order is fixed (DESIGN: identity is given up
//! piece by piece, the system call filters come last).

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::sys::{self, BpfInstruction, SignalSet};
use rustix::fs::{FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::capabilities;
use crate::channel::{Channel, Message};
use crate::init::Start;
use crate::plan::{Plan, Seccomp};
use crate::process::{Groups, Process};
use crate::program;
use crate::seccomp::{self, Filter, Profile};

/// The system call filters of the command.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// The profile; it is installed while there are capabilities, or after no_new_privs.
    pub base: Filter,
    /// Root emulation: last of all, since its zero answers would fool our own calls.
    pub fakeroot: Filter,
    /// The profile is known to let through all that is done before the command is executed, so it may be installed early.
    pub lenient: bool,
}

impl Filters {
    /// Those that the plan asks for.
    ///
    /// # Errors
    /// [`Exit::Enter`] for a profile that cannot be read or understood.
    pub fn build(plan: &Plan) -> Result<Self> {
        let bounding = plan.process.capabilities.bounding;
        let base = match &plan.seccomp {
            Seccomp::Default => builtin(bounding)?,
            other => match profile(other)? {
                Some(profile) => Cow::Owned(profile.compile(bounding, kernel_version())?),
                None => Cow::default(),
            },
        };
        let fakeroot = if plan.fakeroot { seccomp::fakeroot()? } else { Cow::default() };
        Ok(Self { base, fakeroot, lenient: plan.seccomp == Seccomp::Default })
    }

    /// The built-in profile for a command with this bounding set.
    ///
    /// # Errors
    /// [`Exit::Enter`] on a machine that it is not for.
    pub fn builtin(bounding: u64) -> Result<Self> {
        Ok(Self { base: builtin(bounding)?, ..Self::default() })
    }
}

fn builtin(bounding: u64) -> Result<Filter> {
    seccomp::builtin(bounding).or_exit(Exit::Enter, || "cannot use the built-in seccomp profile")
}

/// The profile that a plan names; `None` for none.
///
/// # Errors
/// [`Exit::Enter`] for one that cannot be read or understood.
pub fn profile(seccomp: &Seccomp) -> Result<Option<Profile>> {
    let parse = |text: &str, shown: &str| {
        Profile::from_json(text).or_exit(Exit::Enter, || format!("cannot use the seccomp profile {shown}")).map(Some)
    };
    match seccomp {
        Seccomp::None => Ok(None),
        Seccomp::Default => {
            Profile::builtin().or_exit(Exit::Enter, || "cannot use the built-in seccomp profile").map(Some)
        }
        Seccomp::File(path) => {
            let shown = path.display().to_string();
            let text = fs::File::open(path).and_then(|file| read_bounded(file, MAX_JSON));
            let text = text.or_exit(Exit::Enter, || format!("cannot read the seccomp profile {shown}"))?;
            parse(&String::from_utf8_lossy(&text), &shown)
        }
        Seccomp::Oci(text) => parse(text, "of config.json: linux.seccomp"),
    }
}

/// The kernel's major and minor version.
pub fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Does what needs no root filesystem yet: mostly, who the command is. Tells which capabilities this kernel knows.
///
/// # Errors
/// [`Exit::Enter`].
pub fn prepare(process: &Process, filters: &Filters) -> Result<u64> {
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    match sys::new_session_keyring() {
        // A kernel without keys, or an outer filter that hides them: then there is nothing to read either.
        Err(e) if matches!(e.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSYS | Errno::PERM)) => {}
        result => result.or_exit(Exit::Enter, || "cannot leave the caller's keyrings")?,
    }
    give_up_identity(process)?;
    // The change of user has cleared it. Where a pid namespace ends with its init, it is there for nothing.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .or_exit(Exit::Enter, || "cannot set PDEATHSIG")?;
    let known = capabilities::limit_bounding(process.capabilities.bounding)?;
    if filters.lenient {
        install(&filters.base)?;
    }
    Ok(known)
}

fn install(filter: &[BpfInstruction]) -> Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    sys::install_seccomp_filter(filter).or_exit(Exit::Enter, || "cannot install a system call filter")
}

/// Takes its place in the root that is there now.
///
/// # Errors
/// [`Exit::Enter`].
pub fn settle(process: &Process, terminal: Option<&OwnedFd>) -> Result<()> {
    if let Some(terminal) = terminal.filter(|_| !process.background) {
        // SIGTTOU is blocked here, so a background process may do this.
        rustix::termios::tcsetpgrp(terminal, rustix::process::getpgrp())
            .or_exit(Exit::Enter, || "cannot take the terminal")?;
    }
    connect(process, terminal)?;
    for limit in &process.rlimits {
        limit.apply()?;
    }
    enter_workdir(process)
}

/// Gives up what the command may not do; `known` is what [`prepare`] told.
///
/// # Errors
/// [`Exit::Enter`].
pub fn give_up(process: &Process, filters: &Filters, known: u64) -> Result<()> {
    if !filters.lenient {
        install(&filters.base)?;
    }
    capabilities::set(&process.capabilities, known)?;
    if process.no_new_privs {
        rustix::thread::set_no_new_privs(true).or_exit(Exit::Enter, || "cannot set no_new_privs")?;
    }
    install(&filters.fakeroot)
}

/// Becomes the command. Returns only with an error; `starting` is closed by the exec.
///
/// # Errors
/// [`Exit::Enter`], or why the command cannot be executed.
pub fn execute(process: &Process, start: &Start<'_>, starting: Option<&Channel>) -> Result<()> {
    let mut keep = process.keep_fds.clone();
    keep.push(start.channel.as_fd().as_raw_fd());
    keep.extend(starting.map(|line| line.as_fd().as_raw_fd()));
    sys::close_all_but(&keep).or_exit(Exit::Enter, || "cannot close descriptors")?;
    start.channel.send(&Message::Command);
    // Of what this program changed, exec undoes the handlers; what the caller ignored (nohup's SIGHUP) stays so.
    sys::default_signal(Signal::PIPE.as_raw());
    SignalSet::empty().block().or_exit(Exit::Enter, || "cannot unblock the signals")?;
    Err(exec(process))
}

/// Connects descriptors 0 to 2: to the container's terminal where the plan says so, else they stay what they are.
fn connect(process: &Process, terminal: Option<&OwnedFd>) -> Result<()> {
    if let Some(terminal) = terminal {
        let dup: [fn(&OwnedFd) -> rustix::io::Result<()>; 3] = [
            |fd| rustix::stdio::dup2_stdin(fd),
            |fd| rustix::stdio::dup2_stdout(fd),
            |fd| rustix::stdio::dup2_stderr(fd),
        ];
        for (connect, _) in dup.iter().zip(process.pty).filter(|(_, wanted)| *wanted) {
            connect(terminal).or_exit(Exit::Enter, || "cannot connect the terminal")?;
        }
    }
    // /dev/stdout is opened anew by its user: a pipe or terminal of our own must belong to that one. Files are left alone.
    let uid = Uid::from_raw(process.user.uid);
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (stream, is_pty) in streams.into_iter().zip(process.pty) {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if (is_pty || kind == FileType::Fifo) && stat.st_uid != process.user.uid {
            let _ = rustix::fs::fchown(stream, Some(uid), None);
        }
    }
    Ok(())
}

/// Groups, gid, uid; the capabilities outlive the change of uid, to be given up one step later.
fn give_up_identity(process: &Process) -> Result<()> {
    if let Groups::Set(groups) = &process.groups {
        let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
        rustix::thread::set_thread_groups(&groups).or_exit(Exit::Enter, || "cannot set the supplementary groups")?;
    }
    rustix::thread::set_keep_capabilities(true).or_exit(Exit::Enter, || "cannot keep the capabilities")?;
    let (uid, gid) = (Uid::from_raw(process.user.uid), Gid::from_raw(process.user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .or_exit(Exit::Enter, || format!("cannot become group {}", process.user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .or_exit(Exit::Enter, || format!("cannot become user {}", process.user.uid))?;
    rustix::thread::set_keep_capabilities(false).or_exit(Exit::Enter, || "cannot reset the capabilities' keeping")?;
    let mut sets = rustix::thread::capabilities(None).or_exit(Exit::Enter, || "cannot read the capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).or_exit(Exit::Enter, || "cannot raise the capabilities")
}

/// The image's working directory is made where it is missing, as docker does, and belongs to the command's user.
///
/// # Errors
/// [`Exit::Enter`].
pub fn make_workdir(process: &Process) -> Result<()> {
    let dir = Path::new(&process.workdir);
    if process.make_workdir && !dir.exists() {
        fs::create_dir_all(dir)
            .or_exit(Exit::Enter, || format!("cannot make the working directory {}", dir.display()))?;
        let (uid, gid) = (Uid::from_raw(process.user.uid), Gid::from_raw(process.user.gid));
        let _ = rustix::fs::chown(dir, Some(uid), Some(gid));
    }
    Ok(())
}

fn enter_workdir(process: &Process) -> Result<()> {
    let dir = Path::new(&process.workdir);
    rustix::process::chdir(dir)
        .or_exit(Exit::Enter, || format!("cannot enter the working directory {}", dir.display()))?;
    // A directory outside the root would show as "(unreachable)" (CVE-2024-21626).
    let now = rustix::process::getcwd(Vec::new()).or_exit(Exit::Enter, || "cannot read the working directory")?;
    if !now.as_bytes().starts_with(b"/") {
        fail!(Exit::Enter, "the working directory {} is outside the container", dir.display());
    }
    Ok(())
}

/// Executes the command; looked up with the container's PATH, inside. Returns why it could not.
fn exec(process: &Process) -> anyhow::Error {
    let c_string = |s: &OsStr| CString::new(s.as_bytes());
    let strings = |list: &[std::ffi::OsString]| list.iter().map(|s| c_string(s)).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(envp)) = (strings(&process.command), strings(&process.environment)) else {
        return failure(Exit::Enter, "the command or its environment holds a NUL character");
    };
    let Some(name) = process.command.first().filter(|n| !n.is_empty()) else {
        return failure(Exit::CommandNotFound, "cannot run the command: its name is empty");
    };
    let shown = name.display();
    if name.as_bytes().contains(&b'/') {
        let error = program::execute(&argv[0], &argv, &envp);
        return explain(&shown.to_string(), Path::new(name), &error);
    }
    let mut denied = None;
    for dir in process.path.as_bytes().split(|b| *b == b':') {
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        let candidate = dir.join(name);
        let Ok(path) = c_string(candidate.as_os_str()) else { continue };
        if !candidate.is_file() {
            continue;
        }
        let error = program::execute(&path, &argv, &envp);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            // execvp(3)'s rule: what may not be executed here may be further on.
            Some(Errno::ACCESS) => denied = Some((candidate, error)),
            _ => return explain(&shown.to_string(), &candidate, &error),
        }
    }
    match denied {
        Some((path, error)) => explain(&shown.to_string(), &path, &error),
        None => failure(
            Exit::CommandNotFound,
            format!("cannot run {shown}: not found in the container's PATH ({})", process.path.display()),
        ),
    }
}

fn explain(shown: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (exit, why) = match errno {
        Some(Errno::NOENT) if path.exists() => {
            (Exit::CannotExecute, "the interpreter that it names does not exist in the root filesystem".to_owned())
        }
        Some(Errno::NOENT | Errno::NOTDIR) => (Exit::CommandNotFound, "not found in the root filesystem".to_owned()),
        Some(Errno::NOEXEC) => {
            (Exit::CannotExecute, "not a program of this machine, nor a script with a #! line".to_owned())
        }
        Some(Errno::LOOP) => {
            (Exit::CannotExecute, "links go round in circles, or through /proc out of the container".to_owned())
        }
        Some(Errno::ACCESS) if path.is_dir() => (Exit::CannotExecute, "it is a directory".to_owned()),
        Some(Errno::ACCESS) => (Exit::CannotExecute, "not executable for this user".to_owned()),
        _ => (Exit::CannotExecute, d_common::report::errno_text(error.raw_os_error().unwrap_or(0))),
    };
    failure(exit, format!("cannot run {shown}: {why}"))
}

/// Kills everything below this process, where no pid namespace does it: as a subreaper, it is the parent of all orphans.
pub fn kill_descendants() {
    // What is killed may leave children behind, which come to us: until there are none.
    for _ in 0..64 {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let pids: Vec<Pid> = children.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}
