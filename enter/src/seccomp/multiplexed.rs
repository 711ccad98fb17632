//! i386's second doors: socketcall(2) and ipc(2) reach the calls of sockets and System V IPC by a number in their first
//! argument. A rule without conditions for such a call holds for its door too, as in libseccomp; one with conditions cannot,
//! for socketcall's arguments lie behind a pointer.

use super::numbers;
use super::profile::{Comparison, Condition};

/// A call that stands for several.
struct Door {
    name: &'static str,
    /// The bits of its first argument that choose.
    mask: u64,
    /// What they choose (linux/net.h, linux/ipc.h).
    calls: &'static [(&'static str, u64)],
}

#[rustfmt::skip]
const SOCKETCALL: Door = Door {
    name: "socketcall",
    mask: 0xffff_ffff,
    calls: &[
        ("socket", 1), ("bind", 2), ("connect", 3), ("listen", 4), ("accept", 5), ("getsockname", 6),
        ("getpeername", 7), ("socketpair", 8), ("send", 9), ("recv", 10), ("sendto", 11), ("recvfrom", 12),
        ("shutdown", 13), ("setsockopt", 14), ("getsockopt", 15), ("sendmsg", 16), ("recvmsg", 17),
        ("accept4", 18), ("recvmmsg", 19), ("sendmmsg", 20),
    ],
};

#[rustfmt::skip]
const IPC: Door = Door {
    name: "ipc",
    // Above it is a version.
    mask: 0xffff,
    calls: &[
        ("semop", 1), ("semget", 2), ("semctl", 3), ("semtimedop", 4), ("msgsnd", 11), ("msgrcv", 12),
        ("msgget", 13), ("msgctl", 14), ("shmat", 21), ("shmdt", 22), ("shmget", 23), ("shmctl", 24),
    ],
};

/// For each such call its row, its door's row, and the condition under which the door leads to it.
pub(super) fn gates() -> impl Iterator<Item = (usize, usize, Condition)> {
    [SOCKETCALL, IPC].into_iter().flat_map(|door| {
        door.calls.iter().filter_map(move |(call, number)| {
            let comparison = Comparison::MaskedEqual(door.mask);
            let condition = Condition { argument: 0, comparison, value: *number };
            Some((numbers::row(call)?, numbers::row(door.name)?, condition))
        })
    })
}
