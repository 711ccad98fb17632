//! Classic BPF as the kernel runs it on `seccomp_data`, for tests: what does this filter answer to that call?

use super::BpfInstruction;
use super::abi::Abi;

/// A system call as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    pub(crate) fn new(abi: Abi, number: u32, arguments: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Self { number, arch: abi.audit_arch(), arguments: all }
    }

    fn word(&self, offset: u32) -> u32 {
        let argument = |index: u32| self.arguments[index as usize];
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 if offset.is_multiple_of(8) => (argument((offset - 16) / 8) & 0xffff_ffff) as u32,
            16..64 if offset.is_multiple_of(4) => (argument((offset - 16) / 8) >> 32) as u32,
            _ => panic!("load at {offset}"),
        }
    }
}

/// What `program` returns, and how many instructions that takes.
pub(crate) fn run(program: &[BpfInstruction], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at) = (0, 0);
    for steps in 1.. {
        let BpfInstruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |yes: bool| at += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
    unreachable!("programs only jump forward")
}
