//! Compiles the filters that nearly every container has, so that no start does it again: the built-in profile for Docker's
//! default capabilities, and root emulation. The compiler is the program's own, whose tests hold it to the profile's meaning.

#![allow(dead_code, unreachable_pub)]

#[path = "src/seccomp/abi.rs"]
mod abi;
#[path = "src/seccomp/assembler.rs"]
mod assembler;
#[path = "src/seccomp/builtin.rs"]
mod builtin;
#[path = "src/seccomp/condition.rs"]
mod condition;
#[path = "src/seccomp/fakeroot.rs"]
mod fakeroot;
#[path = "src/seccomp/multiplexed.rs"]
mod multiplexed;
#[path = "src/seccomp/numbers.rs"]
mod numbers;
#[path = "src/seccomp/profile.rs"]
mod profile;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use libc::sock_filter as BpfInstruction;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/seccomp");
    let variable = |name: &str| env::var(name).with_context(|| format!("cargo sets {name}"));
    // The machine that the program is for, not the one that builds it.
    let machine = abi::Machine::of(&variable("CARGO_CFG_TARGET_ARCH")?);
    let builtin = machine.map(|m| profile::Profile::builtin_for(m).compile(builtin::USUAL_BOUNDING_SET, (0, 0)));
    let emulation = machine.map(fakeroot::filter_for);
    let text = [constant("BUILTIN", builtin.transpose()?)?, constant("FAKEROOT", emulation.transpose()?)?].concat();
    fs::write(Path::new(&variable("OUT_DIR")?).join("filters.rs"), text)?;
    Ok(())
}

/// The text of a constant: a program, or `None` on a machine that has none.
fn constant(name: &str, program: Option<Vec<BpfInstruction>>) -> Result<String> {
    let mut text = format!("pub(super) const {name}: Option<&[super::BpfInstruction]> = ");
    match program {
        None => text.push_str("None;\n"),
        Some(program) => {
            text.push_str("Some(&[\n");
            for BpfInstruction { code, jt, jf, k } in program {
                writeln!(text, "    super::BpfInstruction {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
            }
            text.push_str("]);\n");
        }
    }
    Ok(text)
}
