//! Containers for Rust programs: what `d-enter DIR CMD` does, as a value with a method.
//!
//! It is the same plan and the same launch as the command's, so config.json, an OCI bundle and every option mean the same. For
//! the time that the command runs, signals that this process gets are passed on to it; afterwards mask, handlers and everything
//! else of this process are as they were.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::options::Outcome;
use d_common::report::{Level, Report};
use d_common::sys::{self, SignalAction, SignalSet};
use rustix::process::Signal;

use crate::args::Args;
use crate::choice::Tty;
use crate::directory::Directory;
use crate::launch::Descriptors;
use crate::mount_args::MountArg;
use crate::network::Net;
use crate::plan::{Caller, Plan};

/// A container that is about to run a command.
///
/// It prints nothing and ends nothing but the container. Descriptors 0 to 2 are the command's as well; a terminal of its own it
/// gets with [`Sandbox::tty`] only.
///
/// # Example
/// A package builder: the sources are bound in, the build dependencies are installed and the package is built and tested in a
/// clean Debian (`d-unpack "$(d-pull debian:12)" ./debian` made it) of which nothing is changed.
///
/// ```no_run
/// use d_enter::Sandbox;
///
/// # fn main() -> anyhow::Result<()> {
/// let clean = Sandbox::new("./debian").ephemeral().workdir("/src").env("DEBIAN_FRONTEND", "noninteractive");
///
/// let build = "apt-get -qq update && apt-get -qq -y build-dep ./ && dpkg-buildpackage -us -uc && cp ../*.deb /out/";
/// let built = clean.clone().net("user").volume("./hello:/src").volume("./out:/out").command(["sh", "-c", build]).run()?;
/// assert!(built.success(), "the build ended with {built}");
///
/// // Tested without a network, in another container that is as clean as the first was.
/// let test = "dpkg -i /out/*.deb && hello | grep -q 'Hello, world!'";
/// let tested = clean.volume("./out:/out:ro").workdir("/").command(["sh", "-c", test]).run()?;
/// assert!(tested.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing runs before `run` is called"]
pub struct Sandbox {
    dir: PathBuf,
    command: Vec<OsString>,
    args: Args,
}

impl Sandbox {
    /// A container of `dir`: what `d-enter` takes as DIR. It runs the command of its config.json, unless [`Sandbox::command`]
    /// gives another.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), command: Vec::new(), args: Args { tty: Some(Tty::Never), ..Args::default() } }
    }

    /// The command and its arguments; they go to the image's Entrypoint, if it has one.
    pub fn command<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Mounts a volume, `[SRC:]DST[:OPT,...]` as `--volume` has it.
    pub fn volume(self, spec: impl Into<OsString>) -> Self {
        self.mount(MountArg::Volume(spec.into()))
    }

    /// Mounts a path of the host, whatever characters it holds.
    pub fn bind(self, source: impl Into<OsString>, target: impl Into<OsString>) -> Self {
        self.mount(MountArg::Bind(source.into(), target.into()))
    }

    /// The same, read-only.
    pub fn ro_bind(self, source: impl Into<OsString>, target: impl Into<OsString>) -> Self {
        self.mount(MountArg::RoBind(source.into(), target.into()))
    }

    /// Mounts a tmpfs, `DST[:OPT,...]` as `--tmpfs` has it.
    pub fn tmpfs(self, spec: impl Into<OsString>) -> Self {
        self.mount(MountArg::Tmpfs(spec.into()))
    }

    fn mount(mut self, mount: MountArg) -> Self {
        self.args.mounts.push(mount);
        self
    }

    /// Sets a variable. The environment has nothing of this process's.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut spec = name.as_ref().to_owned();
        spec.push("=");
        spec.push(value);
        self.args.env.push(spec);
        self
    }

    /// The working directory, an absolute path inside.
    pub fn workdir(mut self, dir: impl Into<OsString>) -> Self {
        self.args.workdir = Some(dir.into());
        self
    }

    /// The user, `USER[:GROUP]` by name or number.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.args.user = Some(user.into());
        self
    }

    /// The network, as `--net` has it: `none` (which is the default), `user` or `host`. `ns:PATH` is refused by [`Self::run`]: this
    /// process itself would have to go there, and never came back.
    pub fn net(mut self, net: impl Into<String>) -> Self {
        self.args.net = Some(net.into());
        self
    }

    /// All changes vanish at the end.
    pub fn ephemeral(mut self) -> Self {
        self.args.ephemeral.get_or_insert_default();
        self
    }

    /// The root filesystem is read-only.
    pub fn read_only(mut self) -> Self {
        self.args.read_only = true;
        self
    }

    /// A terminal of the container's own, on all three of descriptors 0 to 2.
    pub fn tty(mut self) -> Self {
        self.args.tty = Some(Tty::Always);
        self
    }

    /// Further options, as on the command line of d-enter: `["--memory=512M", "--cap-drop=ALL"]`.
    ///
    /// # Errors
    /// For what is no option of d-enter's, with its sentence.
    pub fn options<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Result<Self> {
        let args = match Args::from_words(words.into_iter().map(Into::into).collect()) {
            Ok(args) => args,
            Err(Outcome::Usage(line)) => fail!(Exit::Enter, "{line}"),
            Err(Outcome::Print(_)) => fail!(Exit::Enter, "nothing is printed here"),
        };
        if let Some(word) = args.operands.first() {
            fail!(Exit::Enter, "{:?} is no option", word.display().to_string());
        }
        self.args = args.over(self.args);
        Ok(self)
    }

    /// Runs the command to its end. Its exit code is 128+N where a signal N ended it.
    ///
    /// # Errors
    /// When this process has more than one thread: a fork of it could wait for a lock for ever, and the kernel makes no user
    /// namespace for it. Else whatever d-enter fails with; [`crate::exit_code`] tells whether the command could not be found (127)
    /// or executed (126).
    pub fn run(&self) -> Result<ExitStatus> {
        if !sys::single_threaded() {
            fail!(Exit::Enter, "this process has several threads: a container is made before any thread is started");
        }
        let mut args = self.args.clone();
        args.operands = [self.dir.clone().into_os_string()].into_iter().chain(self.command.clone()).collect();
        let directory = Directory::open(Path::new(&self.dir))?;
        let caller = Caller::read(&args, &directory.config.options)?;
        if matches!(Plan::network(&args, &directory, &caller)?, Net::Ns(_)) {
            fail!(Exit::Enter, "--net ns:PATH would take this process itself into that namespace: let d-enter do it");
        }
        let before = State::save().or_exit(Exit::Enter, || "cannot read the state of the signals")?;
        let quiet = Report::new("d-enter", Level::Quiet);
        let code = crate::enter(&args, &directory, &caller, &mut Descriptors::default(), quiet);
        before.restore().or_exit(Exit::Enter, || "cannot restore the state of the signals")?;
        code.map(|code| ExitStatus::from_raw(i32::from(code) << 8))
    }
}

/// What launching changes in this process.
struct State {
    mask: SignalSet,
    child: SignalAction,
    death: Option<Signal>,
}

impl State {
    fn save() -> std::io::Result<Self> {
        Ok(Self {
            mask: SignalSet::blocked()?,
            child: SignalAction::of(Signal::CHILD.as_raw())?,
            death: rustix::process::parent_process_death_signal()?,
        })
    }

    fn restore(self) -> std::io::Result<()> {
        rustix::process::set_parent_process_death_signal(self.death)?;
        self.child.restore()?;
        // Last: what is pending is delivered now, to the handlers of before.
        self.mask.block().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_options_are_one_thing() {
        let sandbox =
            Sandbox::new("d").env("A", "1").volume("/a:/b").options(["--env=B=2", "--volume=/c:/d", "--net=host"]);
        let args = sandbox.unwrap().net("none").ephemeral().args;
        assert_eq!((args.env, args.net.as_deref()), (vec!["A=1".into(), "B=2".into()], Some("none")));
        assert_eq!(args.mounts, [MountArg::Volume("/a:/b".into()), MountArg::Volume("/c:/d".into())]);
        assert_eq!((args.ephemeral.as_deref(), args.tty), (Some(""), Some(Tty::Never)));
        assert!(Sandbox::new("d").options(["--what"]).is_err() && Sandbox::new("d").options(["sh"]).is_err());
    }

    #[test]
    fn threads_are_refused() {
        // A test runs beside the main thread.
        assert!(Sandbox::new("/").run().unwrap_err().to_string().contains("threads"));
    }
}
