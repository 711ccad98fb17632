//! What a seccomp profile says, and its filter.
//!
//! The meaning is libseccomp's, so that a profile does here what it does under podman and docker: of several rules for the
//! same call the first one without conditions decides, wherever it stands; else the first whose conditions hold; a rule with
//! the profile's default action is none. A condition sees an argument's 64 bits, or 32 under a 32-bit ABI.

use std::borrow::Cow;

use anyhow::{Result, bail};

use super::abi::Abi;
use super::assembler::{Assembler, Label, MAX_INSTRUCTIONS, RET_ALLOW, RET_ERRNO};
use super::{BpfInstruction, condition, multiplexed, numbers};

/// What happens to a call (seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It runs.
    Allow,
    /// It runs and is logged.
    Log,
    /// It fails with this errno.
    Errno(u16),
    /// The thread gets SIGSYS.
    Trap,
    /// The thread dies.
    KillThread,
    /// The process dies.
    KillProcess,
}

impl Action {
    /// SECCOMP_RET_*, with its data.
    pub(super) const fn value(self) -> u32 {
        match self {
            Self::Allow => RET_ALLOW,
            Self::Log => 0x7ffc_0000,
            Self::Errno(errno) => RET_ERRNO | errno as u32,
            Self::Trap => 0x0003_0000,
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
        }
    }
}

/// How an argument is compared, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The argument is the value.
    Equal,
    /// It is not.
    NotEqual,
    /// It is less.
    Less,
    /// It is not greater.
    LessOrEqual,
    /// It is greater.
    Greater,
    /// It is not less.
    GreaterOrEqual,
    /// Within this mask, the argument's bits are the value's.
    MaskedEqual(u64),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
}

/// When a rule belongs to the filter at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct When {
    /// Capabilities that must all be kept.
    pub kept: u64,
    /// Capabilities none of which may be kept.
    pub dropped: u64,
    /// The first kernel (major, minor) that it is for.
    pub since: Option<(u32, u32)>,
    /// The first kernel that it is no longer for.
    pub until: Option<(u32, u32)>,
}

impl When {
    /// Always.
    pub(super) const ALWAYS: Self = Self { kept: 0, dropped: 0, since: None, until: None };

    fn holds(&self, kept: u64, kernel: (u32, u32)) -> bool {
        kept & self.kept == self.kept
            && kept & self.dropped == 0
            && self.since.is_none_or(|first| kernel >= first)
            && self.until.is_none_or(|first| kernel < first)
    }
}

/// One rule: under `conditions`, these calls get `action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Rows of the table of system calls.
    pub(super) rows: Cow<'static, [usize]>,
    pub(super) action: Action,
    /// All must hold; none: always.
    pub(super) conditions: Vec<Condition>,
    pub(super) when: When,
}

/// A seccomp profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// For every call that no rule is about, of the listed ABIs.
    pub(super) default: Action,
    /// The ABIs that the rules are for; calls of others end the process.
    pub(super) abis: Vec<Abi>,
    pub(super) rules: Vec<Rule>,
}

/// What the rules say of one call.
#[derive(Clone, Default)]
struct Verdict<'a> {
    always: Option<Action>,
    /// Looked at in this order when there is no `always`.
    conditional: Vec<(Cow<'a, [Condition]>, Action)>,
}

impl Profile {
    /// The filter for a command whose bounding set is `kept` (bit n is capability n), on this kernel (major, minor).
    ///
    /// # Errors
    /// When the profile needs a longer program than the kernel takes.
    pub fn compile(&self, kept: u64, kernel: (u32, u32)) -> Result<Vec<BpfInstruction>> {
        let verdicts = self.verdicts(kept, kernel);
        // Each takes an instruction at least: what cannot fit is not assembled first.
        let conditional: usize = verdicts.iter().map(|verdict| verdict.conditional.len()).sum();
        if conditional > MAX_INSTRUCTIONS {
            bail!("the profile has {conditional} rules with conditions, a filter has {MAX_INSTRUCTIONS} instructions");
        }
        let mut asm = Assembler::default();
        let default = asm.ret(self.default.value());
        let foreign = asm.ret(Action::KillProcess.value());
        let cases = |asm: &mut Assembler, abi: Abi| {
            let with_number = |(row, verdict)| Some((numbers::number(row, abi)?, verdict));
            let listed = verdicts.iter().enumerate().filter_map(with_number);
            listed.map(|(number, verdict)| (number, verdict.assemble(asm, abi, default))).collect()
        };
        let start = asm.dispatch(&self.abis, cases, default, foreign);
        asm.finish(start)
    }

    /// The rules that are about this command on this kernel.
    pub(super) fn rules_for(&self, kept: u64, kernel: (u32, u32)) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.action != self.default && rule.when.holds(kept, kernel))
    }

    /// By row of the table of system calls.
    fn verdicts(&self, kept: u64, kernel: (u32, u32)) -> Vec<Verdict<'_>> {
        let mut verdicts = vec![Verdict::default(); numbers::SYSCALLS.len()];
        for rule in self.rules_for(kept, kernel) {
            for row in rule.rows.iter() {
                let verdict = &mut verdicts[*row];
                if rule.conditions.is_empty() {
                    verdict.always.get_or_insert(rule.action);
                } else {
                    verdict.conditional.push((Cow::Borrowed(&rule.conditions), rule.action));
                }
            }
        }
        if self.abis.contains(&Abi::I386) {
            for (row, gate, condition) in multiplexed::gates() {
                if let Some(action) = verdicts[row].always {
                    verdicts[gate].conditional.push((Cow::Owned(vec![condition]), action));
                }
            }
        }
        verdicts
    }
}

impl Verdict<'_> {
    /// Its code, written from the last rule to the first.
    fn assemble(&self, asm: &mut Assembler, abi: Abi, default: Label) -> Label {
        if let Some(action) = self.always {
            return asm.ret(action.value());
        }
        let mut next = default;
        for (conditions, action) in self.conditional.iter().rev() {
            let yes = asm.ret(action.value());
            next = conditions.iter().rev().fold(yes, |yes, c| condition::assemble(asm, abi, c, yes, next));
        }
        next
    }
}
