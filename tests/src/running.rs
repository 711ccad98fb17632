//! A command that runs: its output so far, signals to it, its end. It is killed with its process group when dropped.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::command::{Cmd, Done};
use crate::wait::eventually;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A command that was started with [`Cmd::spawn`].
pub struct Running {
    cmd: Cmd,
    child: Child,
    started: Instant,
    stdout: (Bytes, Option<JoinHandle<()>>),
    stderr: (Bytes, Option<JoinHandle<()>>),
}

impl Running {
    #[track_caller]
    pub(crate) fn start(mut cmd: Cmd) -> Self {
        let mut child = match cmd.command().spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run {:?} in {}: {error}", cmd.argv, cmd.cwd.display()),
        };
        if let (Some(bytes), Some(mut pipe)) = (cmd.stdin.take(), child.stdin.take()) {
            // A command may end without reading its input: that is for its exit code to say.
            thread::spawn(move || _ = pipe.write_all(&bytes));
        }
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Self { cmd, child, started: Instant::now(), stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it, and it alone, a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Its stdout so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout.0.lock().expect("a reader never panics")).into_owned()
    }

    /// Its stderr so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr.0.lock().expect("a reader never panics")).into_owned()
    }

    /// Waits until its stdout holds `text`.
    #[track_caller]
    pub fn wait_out(&mut self, text: &str) {
        let found = eventually(self.cmd.timeout, || self.out().contains(text) || self.ended());
        assert!(
            found && self.out().contains(text),
            "no {text:?} from {:?}\nstdout: {}\nstderr: {}",
            self.cmd.argv,
            self.out(),
            self.err()
        );
    }

    /// Waits until its stderr holds `text`.
    #[track_caller]
    pub fn wait_err(&mut self, text: &str) {
        let found = eventually(self.cmd.timeout, || self.err().contains(text) || self.ended());
        assert!(
            found && self.err().contains(text),
            "no {text:?} from {:?}\nstdout: {}\nstderr: {}",
            self.cmd.argv,
            self.out(),
            self.err()
        );
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end, and for the end of its output: a process that it left behind with its stdout fails the test.
    #[track_caller]
    pub fn wait(mut self, timeout: Duration) -> Done {
        let deadline = self.started.elapsed() + timeout;
        let ended = eventually(timeout, || self.ended());
        let took = self.started.elapsed();
        assert!(
            ended,
            "{:?} still runs after {took:.1?}\nstdout: {}\nstderr: {}",
            self.cmd.argv,
            self.out(),
            self.err()
        );
        let status = self.child.wait().expect("the status of a process that ended");
        let closed = eventually(deadline.saturating_sub(took).max(Duration::from_secs(5)), || {
            [&self.stdout, &self.stderr].iter().all(|(_, reader)| reader.as_ref().is_none_or(JoinHandle::is_finished))
        });
        assert!(closed, "{:?} ended, but something it started holds its stdout or stderr open", self.cmd.argv);
        let take = |bytes: &Bytes| std::mem::take(&mut *bytes.lock().expect("a reader never panics"));
        let (stdout, stderr) = (take(&self.stdout.0), take(&self.stderr.0));
        Done { argv: self.cmd.argv.clone(), cwd: self.cmd.cwd.clone(), status, stdout, stderr, took }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> (Bytes, Option<JoinHandle<()>>) {
    let bytes = Bytes::default();
    let sink = bytes.clone();
    let reader = pipe.map(|mut pipe| {
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                sink.lock().expect("no other holder panics").extend_from_slice(&buffer[..n]);
            }
        })
    });
    (bytes, reader)
}
