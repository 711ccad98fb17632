//! The filter of `--fakeroot`: calls that only a root with many ids may make are answered with success, and do nothing.
//!
//! Under a single map the container has one user and one group: chown(2) to anyone else is EINVAL, setgroups(2) is denied and
//! no device can be made. Package managers make these calls for files and users that the container does not tell apart
//! anyway. `SECCOMP_RET_ERRNO` with errno 0 ends a call with 0 before it runs. Who asks later (getuid, stat) is told the
//! truth, so what checks, as apt does after becoming `_apt`, has to be told not to change user in the first place.
//!
//! Not answered, on purpose:
//! - setxattr(2): the attribute's name lies behind a pointer, where a filter cannot look. user.*, POSIX ACLs and
//!   security.capability work for real in a user namespace; only trusted.* fails, as under any rootless container.
//! - chmod(2), utimensat(2), unlink(2), chroot(2): every file is the user's own, so they work for real.
//! - umask(2), mount(2), sethostname(2) and all else that changes more than ids: a success without effect would mislead.

use anyhow::Result;

use super::abi::{Abi, Machine};
use super::assembler::{Assembler, Label, RET_ALLOW, RET_ERRNO, Test, argument_low};
use super::{BpfInstruction, numbers};

/// Answered with 0 whatever the arguments, under each ABI that has them. `...32` are the calls of i386 and arm with 32-bit
/// ids, where the plain names take 16-bit ones.
const FAKED: [&[&str]; 4] = [
    // The owner of a file: dpkg, tar, rpm, apk, install(1).
    &["chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32"],
    // Becoming another user: daemons, su and runuser in maintainer scripts. There is no other user to become.
    &[
        "setgid",
        "setgid32",
        "setgroups",
        "setgroups32",
        "setregid",
        "setregid32",
        "setresgid",
        "setresgid32",
        "setresuid",
        "setresuid32",
        "setreuid",
        "setreuid32",
        "setuid",
        "setuid32",
    ],
    // These know no error and return the former id. 0 is the truth: this filter is for user 0, who stays 0, and a
    // caller that looks whether the change took place (setfsuid(-1)) hears 0 with and without the filter.
    &["setfsgid", "setfsgid32", "setfsuid", "setfsuid32"],
    // Giving up all but some capabilities, as a daemon does around its change of user. After a change that did not take
    // place, a real capset would take from root what the rest of an installation needs.
    &["capset"],
];

/// Answered with 0 if they would make a device; the index of their mode argument, which the device number follows.
const MAKE_NODE: [(&str, u8); 2] = [("mknod", 1), ("mknodat", 2)];

/// The filter for a machine.
pub(super) fn filter_for(machine: &Machine) -> Result<Vec<BpfInstruction>> {
    let mut asm = Assembler::default();
    let allow = asm.ret(RET_ALLOW);
    let succeed = asm.ret(RET_ERRNO);
    let mut targets: Vec<(&str, Label)> = FAKED.concat().into_iter().map(|name| (name, succeed)).collect();
    for (name, mode) in MAKE_NODE {
        targets.push((name, if_device(&mut asm, mode, succeed, allow)));
    }
    let cases = |_: &mut Assembler, abi: Abi| {
        let number = |name| numbers::row(name).and_then(|row| numbers::number(row, abi));
        targets.iter().filter_map(|(name, target)| Some((number(name)?, *target))).collect()
    };
    let start = asm.dispatch(machine.abis, cases, allow, allow);
    asm.finish(start)
}

/// To `yes` if the mode in argument `mode` is a device's, to `no` for FIFOs, sockets and regular files, which can be made for
/// real. So can the character device 0:0, an overlay's whiteout, by everyone (since Linux 5.8).
fn if_device(asm: &mut Assembler, mode: u8, yes: Label, no: Label) -> Label {
    const TYPE: u32 = 0o170_000;
    const CHARACTER: u32 = 0o020_000;
    const BLOCK: u32 = 0o060_000;
    let whiteout = asm.branch(Test::Equal, 0, no, yes);
    let character = asm.load(argument_low(mode + 1), whiteout);
    let block = asm.branch(Test::Equal, BLOCK, yes, no);
    let either = asm.branch(Test::Equal, CHARACTER, character, block);
    let masked = asm.and(TYPE, either);
    asm.load(argument_low(mode), masked)
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, run};
    use super::*;

    fn answer(machine: &Machine, abi: Abi, name: &str, arguments: &[u64]) -> Option<u32> {
        let number = numbers::number(numbers::row(name)?, abi)?;
        Some(run(&filter_for(machine).unwrap(), &Call::new(abi, number, arguments)).0)
    }

    /// Each call of each ABI of each machine, against the list; calls with a rule of their own aside.
    #[test]
    fn just_the_listed_calls_succeed() {
        for machine in [Machine::X86_64, Machine::AARCH64] {
            let program = filter_for(&machine).unwrap();
            for abi in machine.abis {
                for (row, (name, _)) in numbers::SYSCALLS.iter().enumerate() {
                    let Some(number) = numbers::number(row, *abi) else { continue };
                    let expected = if FAKED.concat().contains(name) { RET_ERRNO } else { RET_ALLOW };
                    assert_eq!(run(&program, &Call::new(*abi, number, &[])).0, expected, "{name} of {abi:?}");
                }
                let unknown = Call::new(*abi, abi.number_bit() | 900, &[]);
                assert_eq!(run(&program, &unknown).0, RET_ALLOW);
            }
        }
    }

    #[test]
    fn names_of_the_list_exist() {
        for name in FAKED.concat().into_iter().chain(MAKE_NODE.map(|(name, _)| name)) {
            assert!(numbers::row(name).is_some(), "{name}");
        }
    }

    #[test]
    fn sixteen_bit_forms_are_covered() {
        for name in ["chown", "chown32", "lchown", "setuid", "setuid32", "setgroups", "setgroups32", "setfsgid32"] {
            assert_eq!(answer(&Machine::X86_64, Abi::I386, name, &[]), Some(RET_ERRNO), "{name}");
            assert_eq!(answer(&Machine::AARCH64, Abi::Arm, name, &[]), Some(RET_ERRNO), "{name}");
        }
    }

    #[test]
    fn only_devices_are_not_made() {
        let null = 0x103;
        for (mode, device, expected) in [
            (0o020_666, null, RET_ERRNO),
            (0o060_660, 0x800, RET_ERRNO),
            (0o060_660, 0, RET_ERRNO),
            (0o020_000, 0, RET_ALLOW),
            (0o010_644, 0, RET_ALLOW),
            (0o140_755, null, RET_ALLOW),
            (0o100_644, null, RET_ALLOW),
            (0o644, null, RET_ALLOW),
        ] {
            for abi in [Abi::X86_64, Abi::X32, Abi::I386] {
                assert_eq!(answer(&Machine::X86_64, abi, "mknod", &[1, mode, device]), Some(expected), "{mode:o}");
                assert_eq!(answer(&Machine::X86_64, abi, "mknodat", &[9, 1, mode, device]), Some(expected), "{mode:o}");
            }
            assert_eq!(answer(&Machine::AARCH64, Abi::Aarch64, "mknodat", &[9, 1, mode, device]), Some(expected));
        }
    }
}
