//! What d-enter tells other programs: `--status-fd`, `--ready-fd`, `--pid-file`.
//!
//! The JSON lines have bubblewrap's names (`child-pid`, `exit-code`, `net-namespace`, ...) and ours beside them; readers ignore
//! what they do not know.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use serde_json::{Map, Value, json};

/// The namespaces that are reported by their inode numbers.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

/// Where events go.
#[derive(Debug, Default)]
pub struct Status {
    /// JSON lines.
    pub lines: Option<File>,
    /// One line when the command runs.
    pub ready: Option<File>,
    /// The command's pid, as long as it runs.
    pub pid_file: Option<PathBuf>,
    written: bool,
}

impl Status {
    /// The descriptors and the path that the options name.
    pub fn new(lines: Option<OwnedFd>, ready: Option<OwnedFd>, pid_file: Option<PathBuf>) -> Self {
        Self { lines: lines.map(File::from), ready: ready.map(File::from), pid_file, written: false }
    }

    fn line(&mut self, value: &Value) {
        // A reader that is gone is no reason to end a container.
        if let Some(file) = &mut self.lines {
            let _ = file.write_all(format!("{value}\n").as_bytes());
        }
    }

    /// The container's init is there, with this pid outside.
    pub fn child(&mut self, pid: i32) {
        if self.lines.is_none() {
            return;
        }
        let mut members = Map::new();
        members.insert("child-pid".into(), pid.into());
        for name in NAMESPACES {
            // "net:[4026531840]"
            let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_default();
            let text = link.to_string_lossy();
            let inode = text.split(['[', ']']).nth(1).and_then(|n| n.parse::<u64>().ok());
            members.extend(inode.map(|inode| (format!("{name}-namespace"), inode.into())));
        }
        self.line(&Value::Object(members));
    }

    /// The forwards that were opened, as d-netup printed them.
    pub fn ports(&mut self, forwards: &[String]) {
        if !forwards.is_empty() {
            self.line(&json!({ "ports": forwards }));
        }
    }

    /// The command is about to be executed, with this pid outside.
    ///
    /// # Errors
    /// [`Exit::Enter`] when the pid file cannot be written.
    pub fn command(&mut self, pid: i32) -> Result<()> {
        self.line(&json!({ "command-pid": pid }));
        if let Some(path) = &self.pid_file {
            // Whole or not at all, for whoever waits for it.
            let mut temporary = path.clone().into_os_string();
            temporary.push(format!(".{}", std::process::id()));
            fs::write(&temporary, format!("{pid}\n"))
                .and_then(|()| fs::rename(&temporary, path))
                .or_exit(Exit::Enter, || format!("cannot write the pid file {}", path.display()))?;
            self.written = true;
        }
        Ok(())
    }

    /// The command runs.
    pub fn started(&mut self) {
        if let Some(mut ready) = self.ready.take() {
            let _ = ready.write_all(b"READY=1\n");
        }
        notify_socket();
    }

    /// The kernel has killed something inside for want of memory.
    pub fn out_of_memory(&mut self) {
        self.line(&json!({ "oom-killed": true }));
    }

    /// The command has ended.
    pub fn exited(&mut self, code: u8) {
        self.line(&json!({ "exit-code": code }));
        if let Some(path) = self.pid_file.take().filter(|_| self.written) {
            let _ = fs::remove_file(path);
        }
    }
}

/// READY=1 to a service manager (sd_notify(3)), where there is one.
fn notify_socket() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    if let (Ok(socket), Ok(address)) = (UnixDatagram::unbound(), address) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}
