//! What is done once, so that no start does it again.
//!
//! The filters that nearly every container has are compiled: the built-in profile for Docker's default capabilities, and root
//! emulation. The compiler is the program's own, whose tests hold it to the profile's meaning. And the unwinder of libgcc is
//! linked in, where it can be had: a shared library less to load is a twelfth of a start's time.

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
use std::process::Command;

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
    if variable("CARGO_CFG_TARGET_ENV")? == "gnu" && has_static_unwinder() {
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
    Ok(())
}

/// Whether the linker finds libgcc_eh.a: asked for a file that it has, gcc prints its path, else the name alone.
fn has_static_unwinder() -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
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
