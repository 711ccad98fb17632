//! Paths of /proc and /sys that are hidden or read-only inside a container: those that podman and docker protect. d-enter
//! enforces them, and d-unpack writes them into the bundles that it makes.

/// Hidden: they show or change the machine, not the container.
pub const MASKED: [&str; 16] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/kernel/security",
    "/sys/module/apparmor",
];

/// Readable, not writable.
pub const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
