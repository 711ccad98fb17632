//! fuse-overlayfs(1), the last way to an ephemeral root: where the kernel refuses its own overlay (before 5.11, a filesystem that
//! it takes no layers from, mounts below the root filesystem) or there is no place for one.
//!
//! The container mounts and the server serves. It must not run inside, where it could be looked into and shows the host's
//! files: it stays in d-enter's pid namespace, with the container's ids but mounts of its own, and never outlives d-enter. The
//! two meet in one descriptor of /dev/fuse, which only the container can open so that its own namespace may mount it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, anyhow};
use d_common::exit::{Exit, OrExit};
use d_common::sys::{self, Fork};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount_change,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;

use crate::directory::Filesystem;
use crate::ephemeral::make_dirs;
use crate::init::become_root;
use crate::mounts::{Flags, attach, clone_tree, make_dir, new_tmpfs};
use crate::plan::Plan;

/// Where the server gathers the layers, in its own mount namespace: a folder that is everywhere, and holds no programs.
const PLACE: &str = "/sys";
/// The longest that is taken of what the server says, in bytes.
const MAX_WORDS: u64 = 4 << 10;

/// Mounts a filesystem that nobody serves yet, detached, and gives the descriptor that the server must have.
///
/// # Errors
/// Those of /dev/fuse and of the mount.
pub fn mount() -> io::Result<(OwnedFd, OwnedFd)> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key, value: String| fsconfig_set_string(context.as_fd(), key, value);
    set("source", "fuse-overlayfs".into())?;
    set("fd", device.as_raw_fd().to_string())?;
    set("rootmode", "40755".into())?;
    set("user_id", rustix::process::geteuid().to_string())?;
    set("group_id", rustix::process::getegid().to_string())?;
    fsconfig_set_flag(context.as_fd(), "allow_other")?;
    fsconfig_set_flag(context.as_fd(), "default_permissions")?;
    fsconfig_create(context.as_fd())?;
    let tree = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    Ok((device, tree))
}

/// The server of a container, which may need one.
#[derive(Debug)]
pub struct Server<'a> {
    plan: &'a Plan,
    running: Option<(Pid, File)>,
}

impl<'a> Server<'a> {
    /// One that is not started yet.
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, running: None }
    }

    /// Starts it for the filesystem of `device`, which the init behind `pidfd` has mounted for want of an overlay.
    ///
    /// # Errors
    /// [`Exit::Enter`] with `reason`, why there is none, when fuse-overlayfs is not installed.
    pub fn start(&mut self, pidfd: &OwnedFd, device: OwnedFd, reason: &str) -> Result<()> {
        let program = which::which("fuse-overlayfs")
            .or_exit(Exit::Enter, || format!("{reason}; install fuse-overlayfs, the last way to --ephemeral"))?;
        // Whatever it says, it never waits for us to listen.
        let (words, say) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).or_exit(Exit::Enter, || "cannot make a pipe")?;
        match sys::clone_process(0).or_exit(Exit::Enter, || "cannot fork")? {
            Fork::Child => {
                let Err(error) = serve(self.plan, pidfd, device, &program, &say);
                let _ = rustix::io::write(&say, d_common::report::chain(&error).as_bytes());
                sys::exit_now(125)
            }
            Fork::Parent { pid, .. } => self.running = Some((pid, File::from(words))),
        }
        Ok(())
    }

    /// What it said last, where it runs: the reason for a filesystem that answers with an error.
    pub fn words(&mut self) -> Option<String> {
        let (_, words) = self.running.as_mut()?;
        let mut bytes = Vec::new();
        let _ = words.take(MAX_WORDS).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).lines().last().map(str::to_owned)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some((pid, _)) = self.running {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// Becomes the server: the container's ids, the layers and the changes in a place of its own, and exec.
fn serve(
    plan: &Plan,
    pidfd: &OwnedFd,
    device: OwnedFd,
    program: &Path,
    say: &OwnedFd,
) -> Result<std::convert::Infallible> {
    let d_enter = rustix::process::getppid();
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::USER)
        .or_exit(Exit::Enter, || "cannot join the container's user namespace")?;
    sys::unshare(sys::CLONE_NEWNS).or_exit(Exit::Enter, || "cannot make a mount namespace")?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .or_exit(Exit::Enter, || "cannot make the mounts private")?;
    let lower = gather(plan)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .or_exit(Exit::Enter, || "cannot set PDEATHSIG")?;
    if rustix::process::getppid() != d_enter {
        sys::exit_now(125);
    }
    sys::close_all_but(&[device.as_raw_fd(), say.as_raw_fd()]).or_exit(Exit::Enter, || "cannot close descriptors")?;
    rustix::io::fcntl_setfd(&device, FdFlags::empty()).or_exit(Exit::Enter, || "cannot pass /dev/fuse on")?;
    let say = say.try_clone().or_exit(Exit::Enter, || "cannot copy a descriptor")?;
    let error = Command::new(program)
        .args(["-f", "-o"])
        .arg(format!("lowerdir={lower},upperdir=upper,workdir=work"))
        // fuse(4) is mounted already (libfuse's way to say so).
        .arg(format!("/dev/fd/{}", device.as_raw_fd()))
        // Not of the caller's job: Ctrl-C is the command's to handle.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(say))
        .exec();
    Err(anyhow!(error).context(format!("cannot run {}", program.display())))
}

/// Gathers the layers in [`PLACE`] under short names, with the directories for the changes, and goes there. Returns the list
/// of the lower ones, topmost first.
fn gather(plan: &Plan) -> Result<String> {
    // While the caller's own ids count, and from below what is mounted on PLACE.
    let lower: Vec<&PathBuf> = match &plan.filesystem {
        Filesystem::Folder(folder) => vec![folder],
        Filesystem::Overlay { layers, upper, .. } => layers.iter().chain([upper]).collect(),
    };
    let take = |path: &Path| clone_tree(CWD, path).or_exit(Exit::Enter, || format!("cannot take {}", path.display()));
    let lower = lower.into_iter().map(|path| take(path)).collect::<Result<Vec<_>>>()?;
    let beside = plan.ephemeral.as_ref().and_then(|e| e.beside.as_deref()).map(take).transpose()?;
    become_root(plan)?;
    let make = || -> io::Result<()> {
        let scratch = match beside {
            Some(beside) => beside,
            None => new_tmpfs(0o700, plan.ephemeral.as_ref().and_then(|e| e.size), Flags::default())?,
        };
        attach(&scratch, rustix::fs::open(PLACE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        rustix::process::fchdir(&scratch)?;
        for (number, layer) in lower.iter().enumerate() {
            attach(layer, make_dir(&scratch, &number.to_string(), 0o755)?)?;
        }
        let layers: Vec<_> = lower.iter().map(AsFd::as_fd).collect();
        make_dirs(&layers, &scratch).map(drop)
    };
    make().or_exit(Exit::Enter, || "cannot gather the layers")?;
    let names: Vec<String> = (0..lower.len()).rev().map(|number| number.to_string()).collect();
    Ok(names.join(":"))
}
