//! All unsafe code of the suite: the system calls that rustix does not offer, or offers as `unsafe`, each behind a safe
//! function that says why it is sound.
//!
//! Soundness of process creation rests on one rule, checked at run time by [`single_threaded`]: a program forks, clones or
//! changes its user namespace only while it has one thread, so no other thread can hold a lock (of malloc, of stdio) that the
//! child would wait for in vain.
#![allow(unsafe_code)]

pub mod blocks;
mod signals;

use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

pub use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS,
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};
use rustix::process::Pid;

pub use signals::{SignalAction, SignalInfo, SignalSet, default_signal, next_signal, reset_signals, send_signal};

/// What a return value of -1 means.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether this process has one thread only.
pub fn single_threaded() -> bool {
    // Its links are those of any directory, and one for each thread (fs/proc/base.c); a /proc of another make is counted.
    fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3)
        || fs::read_dir("/proc/self/task").map_or(true, |tasks| tasks.count() == 1)
}

fn require_single_thread(call: &str) -> io::Result<()> {
    if single_threaded() {
        return Ok(());
    }
    Err(io::Error::other(format!("{call} in a process with several threads: call it before any thread is started")))
}

/// Which of the two processes after a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new one.
    Child,
    /// The old one, with the child's pid and pidfd (close-on-exec).
    Parent {
        /// The child.
        pid: Pid,
        /// A handle to it that no pid reuse can redirect.
        pidfd: OwnedFd,
    },
}

/// fork(2) into new namespaces (`CLONE_NEW*`; 0 for none) with a pidfd: clone3(2) without a new stack.
///
/// # Errors
/// clone3's; refused while this process has several threads.
pub fn clone_process(namespaces: libc::c_int) -> io::Result<Fork> {
    require_single_thread("clone3")?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain data for which all zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_PIDFD | namespaces) as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child gets a copy of this address space and returns here like fork(2)'s; `args` and
    // `pidfd` live across the call; there is one thread, so no lock is held by a thread that the child lacks.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Ok(Fork::Child),
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Some(pid) => Ok(Fork::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// unshare(2) of the given `CLONE_NEW*` namespaces.
///
/// # Errors
/// unshare's; refused while this process has several threads (the kernel refuses it for user namespaces only).
pub fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    require_single_thread("unshare")?;
    // SAFETY: only namespaces are unshared, neither descriptors nor memory, and there is one thread.
    check(unsafe { libc::unshare(namespaces) }.into()).map(drop)
}

/// execve(2). Returns only if it failed.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both arrays end with a null pointer, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once with `status`, as a forked child must: no destructor or atexit handler of the parent's runs.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(status.into()) }
}

/// Closes every descriptor from 3 on but those in `keep`.
///
/// # Errors
/// close_range(2)'s.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        let last = if fd == u32::MAX { fd } else { fd - 1 };
        if first <= last {
            // SAFETY: closing descriptors is the very purpose; the caller owns none of them any more (it is about to exec, or
            // keeps what it still needs in `keep`).
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Takes ownership of a descriptor number that the user named (`--ready-fd 3`), and sets close-on-exec. Of stdin, stdout and
/// stderr, which have other uses, a copy is taken.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    if let Some(stream) = usize::try_from(number).ok().and_then(|n| streams.get(n)) {
        return Ok(rustix::io::fcntl_dupfd_cloexec(stream, 3)?);
    }
    // SAFETY: fcntl on any number is harmless: a closed one gives EBADF.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, inherited from our parent by this number, and the option that names it is its only user.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Joins a new anonymous session keyring: keyrings are in no namespace, and the caller's keys would be readable inside.
///
/// # Errors
/// keyctl(2)'s; `ENOSYS` on kernels without keys.
pub fn new_session_keyring() -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name touches no memory of ours.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) };
    check(r).map(drop)
}

/// One instruction of a classic BPF program: `code, jt, jf, k` (linux/filter.h).
pub use libc::sock_filter as BpfInstruction;

/// Installs a seccomp filter on this thread; it needs no_new_privs or CAP_SYS_ADMIN in this user namespace.
///
/// # Errors
/// seccomp(2)'s; `EINVAL` for a program that the kernel does not accept.
pub fn install_seccomp_filter(program: &[BpfInstruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions; the kernel copies and checks them, and writes nothing.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(r).map(drop)
}

/// Sets and clears attributes (`MOUNT_ATTR_*`) of the mount at `fd`; of all below it, too, when `recursive`.
///
/// # Errors
/// mount_setattr(2)'s; `EPERM` when a locked flag would be cleared.
pub fn mount_setattr(fd: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is initialised and its size is given; the path is an empty C string.
    let r = unsafe {
        let size = size_of::<libc::mount_attr>();
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size)
    };
    check(r).map(drop)
}

/// The user namespace that owns the namespace `fd` (ioctl_ns(2), NS_GET_USERNS).
///
/// # Errors
/// `EPERM` when that one is outside the caller's own user namespace.
pub fn owner_namespace(fd: impl AsFd) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: this ioctl takes no argument and returns a new descriptor.
    let owner = check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_USERNS) }.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(owner).unwrap_or(-1)) })
}

/// Brings up the loopback interface of this network namespace (netdevice(7)).
///
/// # Errors
/// ioctl(2)'s; `EPERM` without CAP_NET_ADMIN over the namespace.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let request = interface_flags("lo", libc::IFF_UP | libc::IFF_RUNNING);
    // SAFETY: the kernel reads an initialised ifreq whose name ends with a zero byte.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// A request about the interface `name`, which is cut where it is too long.
fn interface_flags(name: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    #[allow(clippy::cast_possible_truncation)]
    let flags = flags as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    request
}

/// Attaches `tun`, an open /dev/net/tun, to the tap device `name` of the network namespace that it was opened in: to a `new`
/// one, or to one that is there.
///
/// # Errors
/// TUNSETIFF's: `EBUSY` where the new one exists, or the old one is attached to another descriptor.
pub fn attach_tap(tun: impl AsFd, name: &str, new: bool) -> io::Result<()> {
    let new = if new { libc::IFF_TUN_EXCL } else { 0 };
    let request = interface_flags(name, libc::IFF_TAP | libc::IFF_NO_PI | new);
    // SAFETY: the kernel reads and writes an initialised ifreq whose name ends with a zero byte.
    check(unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw const request) }.into()).map(drop)
}

/// Gives the device that `tun` is attached to an owner, who may attach to it without any capability.
///
/// # Errors
/// TUNSETOWNER's; `EINVAL` for a user that is not mapped here.
pub fn own_tap(tun: impl AsFd, uid: u32) -> io::Result<()> {
    tap_option(tun, libc::TUNSETOWNER, uid.into())
}

/// Whether the device that `tun` is attached to stays when nothing is attached to it any more.
///
/// # Errors
/// TUNSETPERSIST's.
pub fn keep_tap(tun: impl AsFd, keep: bool) -> io::Result<()> {
    tap_option(tun, libc::TUNSETPERSIST, keep.into())
}

fn tap_option(tun: impl AsFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the argument of these requests is a number.
    check(unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), request, value) }.into()).map(drop)
}

/// The signals that this process ignores, as it inherited them (nohup's SIGHUP, say).
pub fn ignored_signals() -> Vec<i32> {
    let ignored = |signal: &i32| {
        // SAFETY: a null new action only asks; the old one is plain data.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
        }
    };
    (1..=libc::SIGRTMAX()).filter(ignored).collect()
}

/// Ignores `signal`.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Overwrites this process's own argv and environment strings with zeroes, so that /proc/PID/cmdline and environ show nothing.
///
/// # Errors
/// When /proc/self/stat cannot be read (no /proc).
pub fn wipe_arguments() -> io::Result<()> {
    // Fields 48..51 of proc_pid_stat(5): arg_start, arg_end, env_start, env_end; the second field may hold any character, so
    // counting starts behind its last parenthesis, where field 3 follows.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<usize>().ok()).unwrap_or(0);
    for (start, end) in [(field(48), field(49)), (field(50), field(51))] {
        if start != 0 && end > start {
            // SAFETY: the kernel says that our own argument strings lie there, in the stack that the first thread never gives
            // back. After this std::env is all empty strings, and nobody holds a reference into it: Rust's own copies are owned.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
        }
    }
    Ok(())
}

/// A user as the host's databases (files, LDAP, ...) know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostUser {
    /// Login name.
    pub name: String,
    /// Home directory.
    pub home: OsString,
}

/// Looks up a uid through getpwuid_r(3); `None` when nobody knows it.
pub fn host_user(uid: u32) -> Option<HostUser> {
    let mut buffer = vec![0 as libc::c_char; 16 << 10];
    // SAFETY: passwd is plain data for which all zeroes are valid.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the length given is the buffer's.
    let r = unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if r != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so both are C strings inside `buffer`, which is still alive.
    let (name, home) = unsafe { (CStr::from_ptr(entry.pw_name), CStr::from_ptr(entry.pw_dir)) };
    Some(HostUser { name: name.to_str().ok()?.to_owned(), home: OsString::from_vec(home.to_bytes().to_vec()) })
}

// SAFETY: the C library calls what is listed here once, before main; it makes one system call and touches one atomic.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = crate::output::look_at_stdout;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_a_host_user() {
        assert_eq!(host_user(0).map(|u| u.name), Some("root".to_owned()));
    }
}
