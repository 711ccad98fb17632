//! The ABIs through which a process may call the kernel, and which of them a machine has.
//!
//! A kernel takes the calls of several ABIs from the same process: on x86_64 `int $0x80` makes a call by i386's numbers, and
//! bit 30 of the number one of x32. A filter that looks at numbers alone takes one for the other (i386's 12 is chdir, x86_64's
//! is brk), so every program here looks at `seccomp_data.arch` first.

/// A set of system call numbers and the convention that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 64-bit x86 with 32-bit pointers: x86_64's `arch`, numbers with bit 30 set.
    X32,
    /// 32-bit x86.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Abi {
    /// All that are known, in the order of the columns of the table of numbers.
    pub(crate) const ALL: [Self; 5] = [Self::X86_64, Self::X32, Self::I386, Self::Aarch64, Self::Arm];

    /// `seccomp_data.arch` of its calls: AUDIT_ARCH_* of linux/audit.h.
    pub(crate) const fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What profiles call it (libseccomp's and OCI's name).
    pub(crate) const fn profile_name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X32 => "SCMP_ARCH_X32",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }

    /// What is set in all its numbers (`__X32_SYSCALL_BIT`).
    pub(crate) const fn number_bit(self) -> u32 {
        if matches!(self, Self::X32) { 0x4000_0000 } else { 0 }
    }

    /// Whether its arguments are compared in all 64 bits; of the others the upper half is not looked at.
    pub(crate) const fn has_wide_arguments(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }
}

/// A kind of machine: which ABIs its kernel takes calls of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What profiles call it in `arches` (Go's name).
    pub go_name: &'static str,
    /// Its ABIs, its own one first.
    pub abis: &'static [Abi],
}

impl Machine {
    /// 64-bit x86.
    pub(crate) const X86_64: Self = Self { go_name: "amd64", abis: &[Abi::X86_64, Abi::X32, Abi::I386] };
    /// 64-bit ARM.
    pub(crate) const AARCH64: Self = Self { go_name: "arm64", abis: &[Abi::Aarch64, Abi::Arm] };

    /// The one this program was built for; `None` where no filter can be made for lack of numbers.
    pub(crate) fn host() -> Option<&'static Self> {
        Self::of(std::env::consts::ARCH)
    }

    /// The one that Rust calls `arch`.
    pub(crate) fn of(arch: &str) -> Option<&'static Self> {
        match arch {
            "x86_64" => Some(&Self::X86_64),
            "aarch64" => Some(&Self::AARCH64),
            _ => None,
        }
    }
}
