//! An assembler for classic BPF as seccomp uses it (Documentation/networking/filter.rst), which writes a program from its end
//! to its start: an instruction is added after everything that it may jump to.
//!
//! Classic BPF only jumps forward, so this order needs no second pass: when a jump is written its distance is known. The
//! distance of a conditional jump has 8 bits; to what is farther it goes through a copy (of a return) or a `BPF_JA` nearby.

use anyhow::{Result, bail};

use super::BpfInstruction;
use super::abi::Abi;

/// The kernel's limit on a program (BPF_MAXINSNS).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// SECCOMP_RET_ALLOW: the call runs.
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
/// SECCOMP_RET_ERRNO: the call ends at once with the errno in the lower 16 bits.
pub(super) const RET_ERRNO: u32 = 0x0005_0000;

/// Offset of the call's number in `seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the ABI.
const ARCH: u32 = 4;

/// Offset of the lower half of an argument (on the little-endian machines that are known here).
pub(super) const fn argument_low(index: u8) -> u32 {
    16 + 8 * index as u32
}

/// Offset of the upper half of an argument.
pub(super) const fn argument_high(index: u8) -> u32 {
    argument_low(index) + 4
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// What a conditional jump asks of the accumulator and its constant, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Test {
    /// Are they equal (BPF_JEQ)?
    Equal = 0x15,
    /// Is the accumulator greater (BPF_JGT)?
    Greater = 0x25,
    /// Is the accumulator greater or equal (BPF_JGE)?
    GreaterOrEqual = 0x35,
}

/// An instruction, by its distance from the program's end: it stays right while the program grows at its front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program that grows from its end.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<BpfInstruction>,
}

impl Assembler {
    /// A return of `value` (SECCOMP_RET_*), the same one for the same value.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        match self.reversed.iter().position(|i| i.code == RETURN && i.k == value) {
            Some(index) => Label(index + 1),
            None => self.push(RETURN, 0, 0, value),
        }
    }

    /// Loads the 32 bits at `offset` of `seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(LOAD, 0, 0, offset)
    }

    /// Clears the accumulator's bits outside `mask`, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(AND, 0, 0, mask)
    }

    /// Goes on at `yes` or at `no`.
    pub(super) fn branch(&mut self, test: Test, k: u32, mut yes: Label, mut no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // One short of what a jump reaches, since the second target's stand-in moves the first one off by one.
        for target in [&mut yes, &mut no] {
            if self.distance(*target) >= usize::from(u8::MAX) {
                *target = self.stand_in(*target);
            }
        }
        let offset = |target| u8::try_from(self.distance(target)).unwrap_or(u8::MAX);
        self.push(test as u16, offset(yes), offset(no), k)
    }

    /// Goes where the accumulator's value is listed, else to `default`: a binary search over runs of equal targets.
    pub(super) fn switch(&mut self, mut cases: Vec<(u32, Label)>, default: Label) -> Label {
        cases.sort_unstable_by_key(|(value, _)| *value);
        let mut runs = vec![(0, default)];
        let mut start = |value, target| match runs.last_mut() {
            Some(last) if last.1 == target => {}
            Some(last) if last.0 == value => last.1 = target,
            _ => runs.push((value, target)),
        };
        for (value, target) in cases {
            start(value, target);
            if value < u32::MAX {
                start(value + 1, default);
            }
        }
        // A run that was cut short to nothing may leave two equal neighbours.
        runs.dedup_by_key(|(_, target)| *target);
        self.search(&runs)
    }

    fn search(&mut self, runs: &[(u32, Label)]) -> Label {
        let (left, right) = runs.split_at(runs.len() / 2);
        match (left, right) {
            ([], [.., (_, target)]) => *target,
            (_, [(start, _), ..]) => {
                let yes = self.search(right);
                let no = self.search(left);
                self.branch(Test::GreaterOrEqual, *start, yes, no)
            }
            (_, []) => Label(0),
        }
    }

    /// Goes by ABI and number: to what `cases` lists for an ABI, to `default` for its other calls, and to `foreign` for the
    /// calls of an ABI that is not in `abis`.
    pub(super) fn dispatch(
        &mut self,
        abis: &[Abi],
        mut cases: impl FnMut(&mut Self, Abi) -> Vec<(u32, Label)>,
        default: Label,
        foreign: Label,
    ) -> Label {
        let mut next = foreign;
        let mut arches: Vec<u32> = abis.iter().map(|abi| abi.audit_arch()).collect();
        arches.dedup();
        for arch in arches.into_iter().rev() {
            let of_arch = abis.iter().filter(|abi| abi.audit_arch() == arch);
            let listed = of_arch.flat_map(|abi| cases(self, *abi)).collect();
            let mut by_number = self.switch(listed, default);
            if arch == Abi::X32.audit_arch() && !abis.contains(&Abi::X32) {
                // -1 belongs to no ABI: it is what a tracer sets to skip a call.
                let x32 = self.branch(Test::Equal, u32::MAX, default, foreign);
                by_number = self.branch(Test::GreaterOrEqual, Abi::X32.number_bit(), x32, by_number);
            }
            let by_number = self.load(NUMBER, by_number);
            next = self.branch(Test::Equal, arch, by_number, next);
        }
        self.load(ARCH, next)
    }

    /// The program that starts at `start`.
    ///
    /// # Errors
    /// When it is longer than the kernel takes.
    pub(super) fn finish(mut self, start: Label) -> Result<Vec<BpfInstruction>> {
        self.fall_into(start);
        self.reversed.reverse();
        if self.reversed.len() > MAX_INSTRUCTIONS {
            bail!("the filter needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}", self.reversed.len());
        }
        Ok(self.reversed)
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(BpfInstruction { code, jt, jf, k });
        Label(self.reversed.len())
    }

    /// How many instructions the one added next would have to skip to reach `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    /// Makes what is added next run into `target`.
    fn fall_into(&mut self, target: Label) {
        let distance = self.distance(target);
        if distance > 0 {
            // Saturates only in a program that finish() refuses.
            self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        }
    }

    /// An instruction nearby that does what a far one does.
    fn stand_in(&mut self, target: Label) -> Label {
        let far = self.reversed[target.0 - 1];
        if far.code != RETURN {
            self.fall_into(target);
        } else if let Some(back) =
            self.reversed.iter().rev().take(usize::from(u8::MAX) - 1).position(|i| i.code == RETURN && i.k == far.k)
        {
            return Label(self.reversed.len() - back);
        } else {
            self.reversed.push(far);
        }
        Label(self.reversed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, run};
    use super::*;

    fn answer(program: &[BpfInstruction], number: u32) -> u32 {
        run(program, &Call::new(Abi::X86_64, number, &[])).0
    }

    #[test]
    fn switch_finds_every_case_and_no_other() {
        let values: Vec<u32> = (0..700).map(|n| n * n % 1009).chain([0, u32::MAX - 1, u32::MAX]).collect();
        let mut asm = Assembler::default();
        let default = asm.ret(1_000_000);
        let cases: Vec<_> = values.iter().map(|v| (*v, asm.ret(v / 2))).collect();
        let start = asm.switch(cases, default);
        let start = asm.load(NUMBER, start);
        let program = asm.finish(start).unwrap();
        for number in (0..1100).chain(u32::MAX - 3..=u32::MAX) {
            let expected = if values.contains(&number) { number / 2 } else { 1_000_000 };
            assert_eq!(answer(&program, number), expected, "{number}");
        }
    }

    #[test]
    fn far_targets_are_reached_through_stand_ins() {
        let mut asm = Assembler::default();
        let (far_return, filler) = (asm.ret(7), asm.ret(8));
        let far_code = asm.and(0xff, far_return);
        let mut padding = filler;
        for _ in 0..600 {
            padding = asm.and(0xffff, padding);
        }
        let start = asm.branch(Test::Equal, 5, far_code, padding);
        let start = asm.branch(Test::Greater, 5, far_return, start);
        let start = asm.load(NUMBER, start);
        let program = asm.finish(start).unwrap();
        assert_eq!([4, 5, 6].map(|number| answer(&program, number)), [8, 7, 7]);
    }

    #[test]
    fn a_program_that_the_kernel_would_refuse_is_an_error() {
        let mut asm = Assembler::default();
        let mut at = asm.ret(0);
        for _ in 1..MAX_INSTRUCTIONS {
            at = asm.and(1, at);
        }
        let one_more = asm.and(1, at);
        assert!(asm.finish(one_more).unwrap_err().to_string().contains("4097"));
    }

    #[test]
    fn calls_of_an_abi_that_is_left_out_are_foreign() {
        let mut asm = Assembler::default();
        let [default, listed, foreign] = [1, 2, 3].map(|value| asm.ret(value));
        let start = asm.dispatch(&[Abi::X86_64], |_, _| vec![(39, listed)], default, foreign);
        let program = asm.finish(start).unwrap();
        let ask = |abi, number| run(&program, &Call::new(abi, number, &[])).0;
        assert_eq!([39, 40, u32::MAX, 0x4000_0027].map(|n| ask(Abi::X86_64, n)), [2, 1, 1, 3]);
        assert_eq!(ask(Abi::I386, 39), 3);
    }
}
