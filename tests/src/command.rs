//! Running a command and saying what is expected of it. The environment starts empty but for PATH, HOME and LANG, so that
//! no test depends on who runs it; a failed expectation prints argv, cwd, status, stdout and stderr.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::bins::{TOOLS, bin, bin_dir};
use crate::running::Running;

/// PATH of every command; the folder of the tools comes before it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a command may take unless a test says otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A command to run; `argv[0]` is one of the tools, or looked up in [`PATH`].
#[derive(Clone)]
pub struct Cmd {
    pub(crate) argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    pub(crate) cwd: PathBuf,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) timeout: Duration,
}

/// A command with the given argv.
pub fn run<S: AsRef<OsStr>>(argv: impl IntoIterator<Item = S>) -> Cmd {
    let mut path = bin_dir().into_os_string();
    path.push(":");
    path.push(PATH);
    let base = [("PATH", path), ("HOME", "/nonexistent".into()), ("LANG", "C.UTF-8".into())];
    Cmd {
        argv: argv.into_iter().map(|a| a.as_ref().to_owned()).collect(),
        env: base.map(|(k, v)| (k.into(), v)).into(),
        cwd: "/".into(),
        stdin: None,
        timeout: TIMEOUT,
    }
}

impl Cmd {
    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// An environment variable; the last one of a name counts.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory (default `/`).
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = dir.as_ref().to_owned();
        self
    }

    /// Bytes for stdin (default: `/dev/null`).
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Some(bytes.as_ref().to_vec());
        self
    }

    /// How long it may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts it, in a process group of its own, its stdout and stderr being collected.
    #[track_caller]
    pub fn spawn(self) -> Running {
        Running::start(self)
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn done(self) -> Done {
        let timeout = self.timeout;
        self.spawn().wait(timeout)
    }

    /// Runs it; it must end with 0.
    #[track_caller]
    pub fn ok(self) -> Done {
        self.code(0)
    }

    /// Runs it; it must end with `code`.
    #[track_caller]
    pub fn code(self, code: i32) -> Done {
        let done = self.done();
        done.expect(done.code() == code, &format!("exit code {code}"));
        done
    }

    /// Runs one of the tools; it must fail as the suite promises: with `code`, and one line that names the tool, beside
    /// warnings, and without a panic, a backtrace or a bare errno.
    #[track_caller]
    pub fn fails(self, code: i32) -> Done {
        let done = self.code(code);
        let errors = done.errors();
        done.expect(errors.len() == 1, "one error line on stderr");
        done.expect(TOOLS.iter().any(|t| errors[0].starts_with(&format!("{t}: "))), "the tool's name before its error");
        for word in ["panicked", "RUST_BACKTRACE", "(os error"] {
            done.expect(!done.err().contains(word), &format!("no {word:?} in the error"));
        }
        done
    }

    pub(crate) fn command(&self) -> Command {
        let program = &self.argv[0];
        let tool = program.to_str().filter(|p| TOOLS.contains(p));
        let mut command = Command::new(tool.map_or_else(|| program.into(), |t| bin(t).into_os_string()));
        command.args(&self.argv[1..]).env_clear().envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(&self.cwd);
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }
}

/// What a command that ended has left.
pub struct Done {
    pub(crate) argv: Vec<OsString>,
    pub(crate) cwd: PathBuf,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub took: Duration,
}

impl Done {
    /// The exit code; 128+N where a signal N ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// stdout as text without its last newline.
    pub fn out(&self) -> String {
        let text = String::from_utf8_lossy(&self.stdout);
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// stderr as text without its last newline.
    pub fn err(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// The lines of stderr that are no warnings.
    pub fn errors(&self) -> Vec<String> {
        self.err().lines().filter(|l| !l.contains(": warning: ")).map(str::to_owned).collect()
    }

    /// stdout must be this text (a last newline apart).
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        self.expect(self.out() == text, &format!("stdout {text:?}"))
    }

    /// stdout must hold this text.
    #[track_caller]
    pub fn out_has(&self, text: &str) -> &Self {
        self.expect(self.out().contains(text), &format!("{text:?} in stdout"))
    }

    /// stderr must hold this text.
    #[track_caller]
    pub fn err_has(&self, text: &str) -> &Self {
        self.expect(self.err().contains(text), &format!("{text:?} in stderr"))
    }

    /// stderr must be empty.
    #[track_caller]
    pub fn silent(&self) -> &Self {
        self.expect(self.stderr.is_empty(), "an empty stderr")
    }

    /// Panics with all there is to know unless `met`.
    #[track_caller]
    pub fn expect(&self, met: bool, what: &str) -> &Self {
        assert!(met, "expected {what} of\n{self}");
        self
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "argv:   {:?}", self.argv)?;
        writeln!(f, "cwd:    {}", self.cwd.display())?;
        writeln!(f, "status: {} after {:.2?}", self.status, self.took)?;
        writeln!(f, "stdout: {}", self.out())?;
        writeln!(f, "stderr: {}", self.err())
    }
}
