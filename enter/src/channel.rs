//! The line between d-enter and its child, and between the init and the command's process: a pair of packet sockets, whose end is also how each notices the other's death.
//!
//! Descriptors travel as SCM_RIGHTS; the kernel adds the sender's pid (SCM_CREDENTIALS), translated into the receiver's pid
//! namespace: so d-enter learns the pid that the command has outside.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

/// What the two sides tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// To the child: go on. The map is written and the network is up; [`Message::Record`] is done; the cgroup is counted.
    /// From the init to the command's process: the root is built; the container's terminal comes along.
    Go,
    /// To the child: deliver a signal, to the command's process group or to the command alone.
    Signal {
        /// Its number.
        signal: i32,
        /// To the whole group: it came from a keyboard.
        group: bool,
    },
    /// To the child: the command is the foreground job of its terminal, from now on.
    Foreground,
    /// From the child: the record for --join must be there before the command is. This is a good moment to write it.
    Record,
    /// From the child: something the user should know.
    Warning(String),
    /// From the child: it failed, with an exit code.
    Failed(u8, String),
    /// From the child, with a descriptor: the other side of the container's terminal.
    Terminal,
    /// From the child, with a descriptor of /dev/fuse: why there is no overlay, so that fuse-overlayfs must serve one.
    Overlay(String),
    /// From the command's process to the init, with a descriptor: the network namespace that it has made.
    Network,
    /// From the command, just before it is executed: the sender's pid is its own.
    Command,
    /// From the child: the command has been executed.
    Started,
    /// From the child: the command was stopped by this signal.
    Stopped(i32),
    /// From the child: the command has ended with this status.
    Exited(u8),
}

/// Longer texts are cut: a packet has its bounds.
const MAX_TEXT: usize = 8 << 10;

impl Message {
    fn encode(&self) -> Vec<u8> {
        let text = |tag: &[u8], text: &str| [tag, &text.as_bytes()[..text.len().min(MAX_TEXT)]].concat();
        match self {
            Self::Go => b"g".to_vec(),
            Self::Signal { signal, group } => [b"s", &signal.to_ne_bytes()[..], &[u8::from(*group)]].concat(),
            Self::Foreground => b"F".to_vec(),
            Self::Record => b"r".to_vec(),
            Self::Warning(warning) => text(b"w", warning),
            Self::Failed(code, reason) => text(&[b'f', *code], reason),
            Self::Terminal => b"t".to_vec(),
            Self::Overlay(reason) => text(b"o", reason),
            Self::Network => b"n".to_vec(),
            Self::Command => b"c".to_vec(),
            Self::Started => b"S".to_vec(),
            Self::Stopped(signal) => [b"z", &signal.to_ne_bytes()[..]].concat(),
            Self::Exited(code) => vec![b'x', *code],
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |b: &[u8]| b.get(..4)?.try_into().ok().map(i32::from_ne_bytes);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            b'g' => Self::Go,
            b's' => Self::Signal { signal: number(rest)?, group: *rest.get(4)? != 0 },
            b'F' => Self::Foreground,
            b'r' => Self::Record,
            b'w' => Self::Warning(text(rest)),
            b'f' => Self::Failed(*rest.first()?, text(rest.get(1..)?)),
            b't' => Self::Terminal,
            b'o' => Self::Overlay(text(rest)),
            b'n' => Self::Network,
            b'c' => Self::Command,
            b'S' => Self::Started,
            b'z' => Self::Stopped(number(rest)?),
            b'x' => Self::Exited(*rest.first()?),
            _ => return None,
        })
    }
}

/// A message as it arrived.
#[derive(Debug)]
pub struct Received {
    /// What was said.
    pub message: Message,
    /// The sender's pid in the receiver's pid namespace.
    pub pid: i32,
    /// The descriptor that came along.
    pub fd: Option<OwnedFd>,
}

/// One end of the line.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends, d-enter's and the child's; both are close-on-exec.
    ///
    /// # Errors
    /// socketpair(2)'s.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, childs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_passcred(&ours, true)?;
        Ok((Self(ours), Self(childs)))
    }

    /// Sends a message; a dead receiver is no error, since both sides notice that by themselves.
    pub fn send(&self, message: &Message) {
        self.send_with(message, None);
    }

    /// Sends a message with a descriptor.
    pub fn send_with(&self, message: &Message, fd: Option<BorrowedFd<'_>>) {
        let bytes = message.encode();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        while let Err(Errno::INTR) = sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {}
    }

    /// Waits for the next message; `None` when the other side is gone.
    ///
    /// # Errors
    /// recvmsg(2)'s.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut bytes = vec![0u8; MAX_TEXT + 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let (mut pid, mut fd) = (0, None);
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let got = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let length = match got {
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Ok(None),
                got => got?.bytes,
            };
            for message in control.drain() {
                match message {
                    RecvAncillaryMessage::ScmRights(fds) => fd = fds.into_iter().next(),
                    RecvAncillaryMessage::ScmCredentials(credentials) => pid = credentials.pid.as_raw_nonzero().get(),
                    _ => {}
                }
            }
            return Ok(Message::decode(&bytes[..length]).map(|message| Received { message, pid, fd }));
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_sent() {
        let (ours, childs) = Channel::pair().unwrap();
        let all = [
            Message::Warning("w é".into()),
            Message::Failed(127, "gone".into()),
            Message::Overlay("refused".into()),
            Message::Command,
            Message::Started,
            Message::Stopped(20),
            Message::Exited(143),
        ];
        for message in &all {
            childs.send(message);
            let received = ours.receive().unwrap().unwrap();
            assert_eq!((&received.message, received.pid), (message, std::process::id().cast_signed()));
        }
        for message in [Message::Go, Message::Signal { signal: 2, group: true }] {
            ours.send(&message);
            assert_eq!(childs.receive().unwrap().unwrap().message, message);
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        childs.send_with(&Message::Terminal, Some(file.as_fd()));
        assert!(ours.receive().unwrap().unwrap().fd.is_some());
        drop(childs);
        assert!(ours.receive().unwrap().is_none());
    }
}
