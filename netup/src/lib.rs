//! Connect a network namespace through slirp4netns.
//!
//! Four processes, at most: the supervisor (d-netup itself, in the caller's network), the helper that moves packets
//! (slirp4netns or pasta), the [`gate`] inside the namespace that opens sockets there, and the command, if one was given.
#![forbid(unsafe_code)]

pub mod args;
pub mod connect;
pub mod control;
pub mod descendants;
pub mod events;
pub mod forwards;
pub mod gate;
pub mod helper;
pub mod network;
pub mod plan;
pub mod ports;
pub mod publish;
pub mod ready;
pub mod relay;
pub mod runtime;
pub mod slirp;
pub mod supervise;
pub mod target;
pub mod tun;

use std::io::{self, Write};

use anyhow::Result;
use d_common::exit::{Exit, OrExit, failure};
use d_common::report::Report;

use crate::args::Args;
use crate::forwards::Entry;
use crate::plan::{Plan, Style};

/// Does what the command line asks for; the exit code.
///
/// # Errors
/// What failed, with its exit code.
pub fn run(args: Args, report: &Report) -> Result<u8> {
    match plan::plan(args).map_err(|why| failure(Exit::Usage, why))? {
        Plan::Connect { pid, session, background } => connect::connect(pid, &session, background, report),
        Plan::Run { .. } => Err(failure(Exit::Unavailable, "running a command is not there yet")),
        Plan::Ask { pid, request, style } => {
            print(&control::ask(pid, request)?, style)?;
            Ok(0)
        }
        Plan::Check { .. } => Err(failure(Exit::Unavailable, "--check is not there yet")),
    }
}

/// Prints forwards as results.
fn print(entries: &[Entry], style: Style) -> Result<()> {
    let text: String = entries.iter().map(|entry| entry.record(style)).collect::<Result<_>>()?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_exit(Exit::Io, || "cannot write to stdout")
}
