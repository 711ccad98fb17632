//! The built-in profile: equal in effect to the one that podman ships (containers-common's seccomp.json), as data.
//!
//! It is a list of what is allowed. What is not listed does not exist (ENOSYS), so that programs fall back as they would on
//! an older kernel; what is old, or needs a capability that is not kept, is forbidden (EPERM). User namespaces and mounts
//! inside are allowed: the kernel gives no more there than d-enter was given itself.

use std::borrow::Cow;

use anyhow::{Context, Result};

use super::abi::Machine;
use super::numbers::rows;
use super::profile::{Action, Comparison, Condition, Profile, Rule, When};

/// linux/capability.h.
mod capability {
    pub(super) const DAC_READ_SEARCH: u64 = 1 << 2;
    pub(super) const SYS_MODULE: u64 = 1 << 16;
    pub(super) const SYS_RAWIO: u64 = 1 << 17;
    pub(super) const SYS_CHROOT: u64 = 1 << 18;
    pub(super) const SYS_PTRACE: u64 = 1 << 19;
    pub(super) const SYS_PACCT: u64 = 1 << 20;
    pub(super) const SYS_ADMIN: u64 = 1 << 21;
    pub(super) const SYS_TIME: u64 = 1 << 25;
    pub(super) const SYS_TTY_CONFIG: u64 = 1 << 26;
    pub(super) const AUDIT_WRITE: u64 = 1 << 29;
}

/// Docker's default capabilities: the bounding set that this profile is compiled for when the program is built.
pub(super) const USUAL_BOUNDING_SET: u64 = 0xa804_25fb;

const EPERM: Action = Action::Errno(1);
const EINVAL: Action = Action::Errno(22);
const ENOSYS: Action = Action::Errno(38);

/// Old calls, and those that reach beyond the caller's own memory and namespaces.
#[rustfmt::skip]
static FORBIDDEN: [usize; 27] = rows([
    "bdflush", "io_pgetevents", "kexec_file_load", "kexec_load", "migrate_pages", "move_pages", "nfsservctl",
    "nice", "oldfstat", "oldlstat", "oldolduname", "oldstat", "olduname", "pciconfig_iobase", "pciconfig_read",
    "pciconfig_write", "sgetmask", "ssetmask", "swapoff", "swapon", "sysfs", "uselib", "userfaultfd", "ustat",
    "vm86", "vm86old", "vmsplice",
]);

/// What programs live from. Not keyctl(2) and its kin: keyrings are in no namespace, and the caller's own, which is open to
/// its user id wherever that is, could be found by trying all numbers. Some exist on one kind of machine only; the others' filters have no number for them.
#[rustfmt::skip]
static ALLOWED: [usize; 379] = rows([
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl",
    "arm_fadvise64_64", "arm_sync_file_range", "bind", "breakpoint", "brk", "cacheflush", "capget", "capset",
    "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres",
    "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64",
    "clone", "clone3", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat",
    "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat",
    "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock",
    "fork", "fremovexattr", "fsconfig", "fsetxattr", "fsmount", "fsopen", "fspick", "fstat", "fstat64",
    "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_time64",
    "futimesat", "get_mempolicy", "get_robust_list", "get_thread_area", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid",
    "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32", "getxattr",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy",
    "io_getevents", "io_setup", "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr",
    "link", "linkat", "listen", "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat",
    "lstat64", "madvise", "mbind", "membarrier", "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat",
    "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "modify_ldt", "mount", "mount_setattr",
    "move_mount", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "msgctl", "msgget",
    "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep",
    "newfstatat", "open", "open_tree", "openat", "openat2", "pause", "pidfd_getfd", "pidfd_open",
    "pidfd_send_signal", "pipe", "pipe2", "pivot_root", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll",
    "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_mrelease",
    "process_vm_readv", "process_vm_writev", "pselect6", "pselect6_time64", "ptrace", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readdir", "readlink", "readlinkat", "readv", "reboot", "recv", "recvfrom",
    "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "rename", "renameat",
    "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
    "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto", "set_mempolicy",
    "set_robust_list", "set_thread_area", "set_tid_address", "set_tls", "setfsgid", "setfsgid32", "setfsuid",
    "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setns", "setpgid",
    "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "shmat", "shmctl",
    "shmdt", "shmget", "shutdown", "sigaction", "sigaltstack", "signal", "signalfd", "signalfd4", "sigpending",
    "sigprocmask", "sigreturn", "sigsuspend", "socketcall", "socketpair", "splice", "stat", "stat64", "statfs",
    "statfs64", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "sync_file_range2", "syncfs",
    "sysinfo", "syslog", "tee", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun",
    "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times", "tkill", "truncate", "truncate64",
    "ugetrlimit", "umask", "umount", "umount2", "uname", "unlink", "unlinkat", "unshare", "utime", "utimensat",
    "utimensat_time64", "utimes", "vfork", "wait4", "waitid", "waitpid", "write", "writev",
]);

/// Allowed with this capability, forbidden without.
#[rustfmt::skip]
static GUARDED: [(u64, &[usize]); 9] = [
    (capability::DAC_READ_SEARCH, &rows(["open_by_handle_at"])),
    (capability::SYS_ADMIN, &rows([
        "bpf", "fanotify_init", "lookup_dcookie", "perf_event_open", "quotactl", "setdomainname", "sethostname",
    ])),
    (capability::SYS_CHROOT, &rows(["chroot"])),
    (capability::SYS_MODULE, &rows(["delete_module", "finit_module", "init_module", "query_module"])),
    (capability::SYS_PACCT, &rows(["acct"])),
    (capability::SYS_PTRACE, &rows(["kcmp", "process_madvise"])),
    (capability::SYS_RAWIO, &rows(["ioperm", "iopl"])),
    (capability::SYS_TIME, &rows(["clock_settime", "clock_settime64", "settimeofday", "stime"])),
    (capability::SYS_TTY_CONFIG, &rows(["vhangup"])),
];

static PERSONALITY: [usize; 1] = rows(["personality"]);
/// linux/personality.h: PER_LINUX, PER_LINUX32, both with UNAME26 too, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

static SOCKET: [usize; 1] = rows(["socket"]);
const AF_NETLINK: u64 = 16;
const NETLINK_AUDIT: u64 = 9;

const fn condition(argument: u8, comparison: Comparison, value: u64) -> Condition {
    Condition { argument, comparison, value }
}

/// The audit socket is for who may write to it; without, EINVAL says that there is no such protocol.
const IS_AUDIT: [Condition; 2] =
    [condition(0, Comparison::Equal, AF_NETLINK), condition(2, Comparison::Equal, NETLINK_AUDIT)];
const IS_OTHER_PROTOCOL: [Condition; 1] = [condition(2, Comparison::NotEqual, NETLINK_AUDIT)];
const IS_OTHER_FAMILY: [Condition; 1] = [condition(0, Comparison::NotEqual, AF_NETLINK)];

fn rule(rows: &'static [usize], action: Action, conditions: &[Condition], when: When) -> Rule {
    Rule { rows: Cow::Borrowed(rows), action, conditions: conditions.to_vec(), when }
}

impl Profile {
    /// The built-in one.
    ///
    /// # Errors
    /// On a machine whose system call numbers are not known here.
    pub fn builtin() -> Result<Self> {
        let machine = Machine::host()
            .context("the built-in seccomp profile is for x86_64 and aarch64; --seccomp none goes without a filter")?;
        Ok(Self::builtin_for(machine))
    }

    pub(super) fn builtin_for(machine: &Machine) -> Self {
        let with = |kept| When { kept, ..When::ALWAYS };
        let without = |dropped| When { dropped, ..When::ALWAYS };
        let mut rules =
            vec![rule(&FORBIDDEN, EPERM, &[], When::ALWAYS), rule(&ALLOWED, Action::Allow, &[], When::ALWAYS)];
        for value in PERSONALITIES {
            let same = [condition(0, Comparison::Equal, value)];
            rules.push(rule(&PERSONALITY, Action::Allow, &same, When::ALWAYS));
        }
        for (capability, rows) in GUARDED {
            rules.push(rule(rows, Action::Allow, &[], with(capability)));
            rules.push(rule(rows, EPERM, &[], without(capability)));
        }
        let audit = capability::AUDIT_WRITE;
        rules.push(rule(&SOCKET, EINVAL, &IS_AUDIT, without(audit)));
        rules.push(rule(&SOCKET, Action::Allow, &IS_OTHER_PROTOCOL, without(audit)));
        rules.push(rule(&SOCKET, Action::Allow, &IS_OTHER_FAMILY, without(audit)));
        rules.push(rule(&SOCKET, Action::Allow, &[], with(audit)));
        Self { default: ENOSYS, abis: machine.abis.to_vec(), rules }
    }
}
