//! A condition on an argument as code. BPF compares 32 bits, an argument has 64: the upper half is looked at first.

use super::abi::Abi;
use super::assembler::{Assembler, Label, Test, argument_high, argument_low};
use super::profile::{Comparison, Condition};

/// Code that goes on at `yes` if the condition holds, else at `no`.
pub(super) fn assemble(asm: &mut Assembler, abi: Abi, condition: &Condition, yes: Label, no: Label) -> Label {
    let mut ordered = |test, yes, no| order(asm, abi, test, condition, yes, no);
    match condition.comparison {
        Comparison::Greater => ordered(Test::Greater, yes, no),
        Comparison::LessOrEqual => ordered(Test::Greater, no, yes),
        Comparison::GreaterOrEqual => ordered(Test::GreaterOrEqual, yes, no),
        Comparison::Less => ordered(Test::GreaterOrEqual, no, yes),
        Comparison::Equal => equality(asm, abi, u64::MAX, condition, yes, no),
        Comparison::NotEqual => equality(asm, abi, u64::MAX, condition, no, yes),
        Comparison::MaskedEqual(mask) => equality(asm, abi, mask, condition, yes, no),
    }
}

/// Upper and lower 32 bits.
const fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, (value & 0xffff_ffff) as u32)
}

fn order(asm: &mut Assembler, abi: Abi, test: Test, condition: &Condition, yes: Label, no: Label) -> Label {
    let (high, low) = halves(condition.value);
    let by_low = asm.branch(test, low, yes, no);
    let by_low = asm.load(argument_low(condition.argument), by_low);
    if !abi.has_wide_arguments() {
        return by_low;
    }
    let same_high = asm.branch(Test::Equal, high, by_low, no);
    let by_high = asm.branch(Test::Greater, high, yes, same_high);
    asm.load(argument_high(condition.argument), by_high)
}

fn equality(asm: &mut Assembler, abi: Abi, mask: u64, condition: &Condition, yes: Label, no: Label) -> Label {
    let (mask_high, mask_low) = halves(mask);
    let (high, low) = halves(condition.value & mask);
    let by_low = masked(asm, argument_low(condition.argument), mask_low, low, yes, no);
    if !abi.has_wide_arguments() {
        return by_low;
    }
    masked(asm, argument_high(condition.argument), mask_high, high, by_low, no)
}

/// Whether the bits within `mask` of the word at `offset` are `value`.
fn masked(asm: &mut Assembler, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
    if mask == 0 {
        return yes;
    }
    let mut test = asm.branch(Test::Equal, value, yes, no);
    if mask != u32::MAX {
        test = asm.and(mask, test);
    }
    asm.load(offset, test)
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, run};
    use super::*;

    /// The comparison as its definition says it.
    fn holds(comparison: Comparison, argument: u64, value: u64) -> bool {
        match comparison {
            Comparison::Equal => argument == value,
            Comparison::NotEqual => argument != value,
            Comparison::Less => argument < value,
            Comparison::LessOrEqual => argument <= value,
            Comparison::Greater => argument > value,
            Comparison::GreaterOrEqual => argument >= value,
            Comparison::MaskedEqual(mask) => argument & mask == value & mask,
        }
    }

    #[test]
    fn every_comparison_of_every_pair_in_both_widths() {
        const EDGES: [u64; 9] =
            [0, 1, 2, 0xffff_fffe, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX - 1, u64::MAX];
        let masks = EDGES.map(Comparison::MaskedEqual);
        let plain = [
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
        ];
        for comparison in plain.into_iter().chain(masks) {
            for value in EDGES {
                for abi in [Abi::X86_64, Abi::I386] {
                    let mut asm = Assembler::default();
                    let (yes, no) = (asm.ret(1), asm.ret(0));
                    let condition = Condition { argument: 3, comparison, value };
                    let start = assemble(&mut asm, abi, &condition, yes, no);
                    let program = asm.finish(start).unwrap();
                    for argument in EDGES {
                        let width = if abi == Abi::I386 { 0xffff_ffff } else { u64::MAX };
                        let comparison = match comparison {
                            Comparison::MaskedEqual(mask) => Comparison::MaskedEqual(mask & width),
                            other => other,
                        };
                        let expected = holds(comparison, argument & width, value & width);
                        let (answer, _) = run(&program, &Call::new(abi, 1, &[0, 0, 0, argument]));
                        assert_eq!(answer == 1, expected, "{comparison:?} {argument:#x} {value:#x} {abi:?}");
                    }
                }
            }
        }
    }
}
