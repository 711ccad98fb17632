//! Connect a network namespace through slirp4netns.
//!
//! Four processes, at most: the supervisor (d-netup itself, in the caller's network), the helper that moves packets
//! (slirp4netns or pasta), the [`gate`] inside the namespace that opens sockets there, and the command, if one was given.
#![forbid(unsafe_code)]

pub mod args;
pub mod backend;
pub mod background;
pub mod check;
pub mod command;
pub mod connect;
pub mod control;
pub mod descendants;
pub mod events;
pub mod forwards;
pub mod gate;
pub mod helper;
pub mod loopback;
pub mod network;
pub mod pasta;
pub mod plan;
pub mod ports;
pub mod publish;
pub mod ready;
pub mod relay;
pub mod resolv;
pub mod runtime;
pub mod slirp;
pub mod supervise;
pub mod tap;
pub mod target;
pub mod tun;

use anyhow::Result;
use d_common::exit::{Exit, failure};
use d_common::output;
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
        Plan::Run { command, session, dns } => connect::run(&command, &session, &dns, report),
        Plan::Ask { pid, request, style } => {
            print(&control::ask(pid, request)?, style)?;
            Ok(0)
        }
        Plan::Check { json } => {
            let (text, good) = d_common::check::report(&check::rows(), json);
            output::print(text.as_bytes())?;
            Ok(if good { 0 } else { Exit::Unavailable as u8 })
        }
    }
}

/// Prints forwards as results.
fn print(entries: &[Entry], style: Style) -> Result<()> {
    let records = entries.iter().map(|entry| entry.record(style)).collect::<Result<String>>()?;
    output::print(records.as_bytes())
}
