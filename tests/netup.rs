//! d-netup(1): slirp4netns and pasta, forwards, lifetimes.
//!
//! Namespaces are made by unshare(1) and bwrap(1), servers inside by socat(1); the clients are this process's own sockets.

#[path = "netup/answers.rs"]
mod answers;
#[path = "netup/command.rs"]
mod command;
#[path = "netup/forwards.rs"]
mod forwards;
#[path = "netup/lifetime.rs"]
mod lifetime;
#[path = "netup/network.rs"]
mod network;
#[path = "netup/podman.rs"]
mod podman;

use std::ffi::OsStr;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use d_tests::{Running, Scratch, alive, children, eventually, run};

/// How long a thing may take that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// A network namespace, made by unshare(1), and its runtime directory.
struct Namespace {
    scratch: Scratch,
    holder: Running,
}

impl Namespace {
    fn new() -> Self {
        let holder = run(["unshare", "-Urn", "sleep", "600"]).spawn();
        Self { scratch: Scratch::new(), holder }
    }

    fn pid(&self) -> String {
        self.holder.pid().to_string()
    }

    /// d-netup with the runtime directory of this namespace.
    fn netup<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> d_tests::Cmd {
        self.scratch.run(["d-netup"]).args(args).env("XDG_RUNTIME_DIR", self.scratch.path())
    }

    /// d-netup on this namespace, when it says that it is ready.
    #[track_caller]
    fn connected<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut netup = self.netup(["--ready-fd", "1"]).args(args).arg(self.pid()).spawn();
        netup.wait_out("READY=1\n");
        netup
    }

    /// A command inside, started.
    fn inside<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Running {
        let pid = self.pid();
        run(["nsenter", "--preserve-credentials", "-U", "-n", "-t", &pid, "--"]).args(argv).spawn()
    }

    /// A server inside that sends back what it is sent.
    #[track_caller]
    fn echo(&self, proto: &str, port: u16) -> Running {
        let listen = match proto {
            "tcp" => format!("TCP-LISTEN:{port},fork,reuseaddr,backlog=512"),
            _ => format!("UDP-LISTEN:{port},fork,reuseaddr"),
        };
        let server = self.inside(["socat", "-b", "65536", &listen, "EXEC:cat"]);
        let table = format!("/proc/{}/net/{proto}", self.holder.pid());
        let entry = format!(":{port:04X} 00000000:0000 ");
        let listens = || std::fs::read_to_string(&table).is_ok_and(|t| t.contains(&entry));
        assert!(eventually(SOON, listens), "no server at {proto} port {port}: {}", server.err());
        server
    }

    /// The names in d-netup's runtime directory.
    fn runtime_files(&self) -> Vec<String> {
        self.scratch.names("d-netup")
    }
}

/// The pids of the helpers of a d-netup: of the gate and of the backend.
fn helpers(netup: &Running) -> Vec<u32> {
    children(netup.pid())
}

#[track_caller]
fn all_gone(pids: &[u32]) {
    assert!(eventually(SOON, || !pids.iter().any(|pid| alive(*pid))), "still there: {pids:?}");
}

/// The child of d-netup whose program has this name.
#[track_caller]
fn helper(netup: &Running, name: &str) -> u32 {
    let is = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    helpers(netup).into_iter().find(is).unwrap_or_else(|| panic!("no {name}: {}", netup.err()))
}

/// Bytes that are all different enough.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends `bytes` to a TCP server that sends them back; all must come back, and then the end.
#[track_caller]
fn tcp_echo(address: &str, bytes: &[u8]) {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let received = std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::with_capacity(bytes.len());
        stream.read_to_end(&mut received).unwrap_or_else(|e| panic!("{address}: {e} after {} bytes", received.len()));
        received
    });
    assert!(received == bytes, "{address}: {} bytes came back of {}, or others", received.len(), bytes.len());
}

/// Sends `bytes` to a UDP server in datagrams, each when the one before has come back.
#[track_caller]
fn udp_echo(address: &str, bytes: &[u8], datagram: usize) {
    let socket = UdpSocket::bind(if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = vec![0; 1 << 16];
    for chunk in bytes.chunks(datagram) {
        socket.send(chunk).unwrap();
        let n = socket.recv(&mut answer).unwrap_or_else(|e| panic!("{address}: {e}"));
        assert!(&answer[..n] == chunk, "{address}: a datagram of {n} bytes came back for one of {}", chunk.len());
    }
}
