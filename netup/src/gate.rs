//! The gate: a forked process inside the target's user and network namespaces, that opens sockets there and passes them out.
//!
//! A socket belongs for good to the network it was opened in; so the supervisor, which stays outside, can connect and read
//! such a socket as its own. The gate holds no capability when the network is up, no descriptor but its end of a socket pair
//! and what it tidies up, and ends when the other end of the pair does. It is the last of d-netup to go, even when the
//! supervisor was killed, so it also removes what the run has left: the files in the runtime directory, and the tap device.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::sys::{self, Fork, SignalSet};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socket_with, socketpair,
};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, pidfd_send_signal, set_dumpable_behavior, setpgid, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, set_capabilities};

use crate::loopback;
use crate::publish::Proto;
use crate::runtime::Files;
use crate::tap::{self, Tap};
use crate::target::{Target, ended};

/// What the gate found when it had entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inside {
    /// User and group 0 are mapped, so a helper can be root there.
    Root,
    /// They are not: bwrap without `--dev` maps one id to itself.
    NoRoot,
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Gate {
    pid: Pid,
    pidfd: OwnedFd,
    socket: Option<OwnedFd>,
    has_tap: bool,
    /// Removed here, too, should the gate have been killed.
    _files: Files,
}

impl Gate {
    /// Forks the gate, and waits until it is inside. From now on it is the one that removes `files`, also when the supervisor
    /// is killed. It makes the tap device there, where it `makes_tap` and can.
    ///
    /// # Errors
    /// [`Exit::NotAllowed`] when the namespaces may not be entered.
    pub fn open(target: &Target, files: Files, makes_tap: bool) -> Result<(Self, Inside)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .or_exit(Exit::Io, || "cannot make a socket pair")?;
        match sys::clone_process(0).or_exit(Exit::Unavailable, || "cannot fork")? {
            Fork::Child => inside(target, &theirs, files, makes_tap),
            Fork::Parent { pid, pidfd } => {
                drop(theirs);
                let mut gate = Self { pid, pidfd, socket: Some(ours), has_tap: false, _files: files };
                let (word, has_tap, errno) = gate.answer().or_exit(Exit::Unavailable, || "the gate process died")?;
                gate.has_tap = has_tap;
                match word {
                    b'0' => Ok((gate, Inside::Root)),
                    b'1' => Ok((gate, Inside::NoRoot)),
                    _ => Err(refused(target, errno)),
                }
            }
        }
    }

    /// A handle to the gate's process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has made the tap device.
    pub fn has_tap(&self) -> bool {
        self.has_tap
    }

    /// A new non-blocking IPv4 socket inside the namespace.
    ///
    /// # Errors
    /// socket(2)'s there, or the gate's death.
    pub fn socket(&self, proto: Proto) -> io::Result<OwnedFd> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        let wish = match proto {
            Proto::Tcp => b"t",
            Proto::Udp => b"u",
        };
        send(socket, wish, SendFlags::NOSIGNAL)?;
        let mut errno = [0u8; 4];
        match receive_with(socket, &mut errno)? {
            (_, Some(fd)) => Ok(fd),
            (4, None) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            _ => Err(Errno::PIPE.into()),
        }
    }

    /// Closes the way to the host's loopback, now that the device is up; after that the gate has no capability left.
    ///
    /// # Errors
    /// What the kernel says against the routes, or the gate's death.
    pub fn close_loopback(&self) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        send(socket, b"l", SendFlags::NOSIGNAL)?;
        let mut errno = [0u8; 4];
        match receive_with(socket, &mut errno)? {
            (4, None) if errno == [0; 4] => Ok(()),
            (4, None) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            _ => Err(Errno::PIPE.into()),
        }
    }

    /// Hands over a helper that does not end with us by itself: the gate kills it when the supervisor is gone.
    ///
    /// # Errors
    /// sendmsg(2)'s, when the gate has died.
    pub fn guard(&self, helper: BorrowedFd<'_>) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        Ok(send_with(socket, b"g", helper)?)
    }

    /// The first packet: what was found, whether the tap device was made, and an errno.
    fn answer(&self) -> io::Result<(u8, bool, i32)> {
        let mut packet = [0u8; 6];
        let socket = self.socket.as_ref().ok_or(Errno::PIPE)?;
        let (n, _) = recv(socket, &mut packet, RecvFlags::empty())?;
        let [word, tap, errno @ ..] = packet;
        if n == packet.len() { Ok((word, tap != 0, i32::from_ne_bytes(errno))) } else { Err(Errno::PIPE.into()) }
    }
}

impl Drop for Gate {
    /// Lets the gate go and waits for it, so that neither a zombie nor a file is left.
    fn drop(&mut self) {
        self.socket = None;
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

fn refused(target: &Target, errno: i32) -> anyhow::Error {
    let why = d_common::report::errno_text(errno);
    failure(
        Exit::NotAllowed,
        format!(
            "not allowed to enter the network namespace of process {}: {why}; it belongs to another user",
            target.pid
        ),
    )
}

/// The gate's own program.
fn inside(target: &Target, socket: &OwnedFd, files: Files, makes_tap: bool) -> ! {
    // Ctrl-C of the terminal is the supervisor's business, and no signal may keep the gate from tidying up.
    let _ = setpgid(None, None);
    let _ = SignalSet::all().block();
    leave_the_callers_streams();
    let (tap, entered) = match enter(target, makes_tap) {
        Ok((tap, inside)) => (tap, Ok(inside)),
        Err(errno) => (None, Err(errno)),
    };
    let keep = [socket.as_raw_fd(), target.pidfd.as_raw_fd(), files.descriptor().as_raw_fd()].into_iter();
    let _ = sys::close_all_but(&keep.chain(tap.iter().map(|tap| tap.as_fd().as_raw_fd())).collect::<Vec<_>>());
    let (word, errno) = match entered {
        Ok(Inside::Root) => (b'0', 0),
        Ok(Inside::NoRoot) => (b'1', 0),
        Err(e) => (b'e', e.raw_os_error()),
    };
    let mut packet = vec![word, u8::from(tap.is_some())];
    packet.extend(errno.to_ne_bytes());
    if send(socket, &packet, SendFlags::NOSIGNAL).is_ok() {
        serve(socket);
    }
    // Before anything that takes time: the next d-netup makes files of the same names.
    drop(files);
    // All of a pid namespace ends with its init, and with all of it the network namespace.
    match tap {
        Some(tap) if target.is_init && ended(&target.pidfd) => tap.leave(),
        tap => drop(tap),
    }
    sys::exit_now(0)
}

/// Whoever reads what the caller writes shall not wait for the gate, which may outlive it and says nothing.
fn leave_the_callers_streams() {
    if let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
}

/// The user namespace comes first: it gives the capability that entering the network needs (setns(2)), and the tap device.
fn enter(target: &Target, makes_tap: bool) -> Result<(Option<Tap>, Inside), Errno> {
    // Before anybody in there has a right over this process, which has the caller's memory and environment.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    if let Some(userns) = &target.userns {
        move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(target.netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let _ = tap::remove_leftover();
    let tap = if makes_tap { Tap::make().ok() } else { None };
    keep_capabilities(CapabilitySet::NET_ADMIN)?;
    let maps_zero =
        |path| fs::read_to_string(path).is_ok_and(|map| map.lines().any(|l| l.trim_start().starts_with("0 ")));
    let root = maps_zero("/proc/self/uid_map") && maps_zero("/proc/self/gid_map");
    Ok((tap, if root { Inside::Root } else { Inside::NoRoot }))
}

/// Gives all other capabilities up for good.
fn keep_capabilities(kept: CapabilitySet) -> Result<(), Errno> {
    let kept = kept & rustix::thread::capabilities(None)?.permitted;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

/// Answers each wish with a socket, or with an errno, until the supervisor is gone; then kills what it guards.
fn serve(socket: &OwnedFd) {
    let mut guarded = None;
    let mut wish = [0u8; 1];
    while let Ok((1, fd)) = receive_with(socket, &mut wish) {
        let kind = match &wish {
            b"g" => {
                guarded = fd;
                continue;
            }
            b"l" => {
                let closed = loopback::close();
                let closed = keep_capabilities(CapabilitySet::empty()).and(closed);
                let errno = closed.err().map_or(0, Errno::raw_os_error);
                if send(socket, &errno.to_ne_bytes(), SendFlags::NOSIGNAL).is_err() {
                    break;
                }
                continue;
            }
            b"u" => SocketType::DGRAM,
            _ => SocketType::STREAM,
        };
        let made = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
        let sent = match &made {
            Ok(fd) => send_with(socket, &[0; 4], fd.as_fd()),
            Err(errno) => send(socket, &errno.raw_os_error().to_ne_bytes(), SendFlags::NOSIGNAL).map(drop),
        };
        if sent.is_err() {
            break;
        }
    }
    if let Some(helper) = guarded {
        let _ = pidfd_send_signal(helper, Signal::KILL);
    }
}

/// Sends a packet and a descriptor.
fn send_with(socket: &OwnedFd, packet: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives a packet, and the descriptor that came with it.
fn receive_with(socket: &OwnedFd, packet: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((received.bytes, fds.flatten().next()))
}
