//! d-enter: a command in a rootless container made of a plain directory.
//!
//! The order of the dance is the program (d-enter(1), "HOW IT WORKS"): [`plan`] decides everything; [`launch`] clones, writes
//! the id map and calls d-netup; in the child [`root`] mounts and pivots and [`init`] stays as PID 1; beside it a process that
//! is [`waiting`] gets ready, gives up privileges and executes the [`command`]; [`supervise`] carries terminal and signals
//! outside.
//!
//! Rust programs use [`Sandbox`].
#![forbid(unsafe_code)]

pub mod args;
pub mod attend;
pub mod caller;
pub mod capabilities;
pub mod cgroup;
pub mod channel;
pub mod check;
pub mod choice;
pub mod command;
pub mod config;
pub mod copy;
pub mod decide;
pub mod directory;
pub mod env;
pub mod ephemeral;
pub mod explain;
pub mod fuse;
pub mod init;
pub mod join;
pub mod kept;
pub mod launch;
pub mod limits;
pub mod listed;
pub mod mount_args;
pub mod mounts;
pub mod netns;
pub mod netup;
pub mod network;
pub mod newnet;
pub mod oci;
mod options;
pub mod overlay;
pub mod paths;
pub mod plan;
pub mod process;
pub mod program;
pub mod publish;
pub mod record;
pub mod rlimit;
pub mod root;
pub mod sandbox;
pub mod scratch;
pub mod seccomp;
pub mod size;
pub mod special;
pub mod status;
pub mod supervise;
pub mod terminal;
pub mod user;
pub mod volume;
pub mod waiting;

pub use sandbox::Sandbox;

use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit, exit_of};
use d_common::fail;
use d_common::idmap::{Facts, MapChoice};
use d_common::output::print;
use d_common::report::Report;
use d_common::userns;

use crate::args::Args;
use crate::command::Filters;
use crate::directory::Directory;
use crate::launch::Descriptors;
use crate::network::Net;
use crate::plan::{Caller, Plan};

/// Runs what the arguments ask for. Returns the exit code of the command.
///
/// # Errors
/// Everything that is d-enter's own failure; [`exit_code`] tells the code.
pub fn run(args: Args, report: Report) -> Result<u8> {
    if args.check {
        let (text, able) = check::run(args.json);
        print(text.as_bytes())?;
        return Ok(if able { 0 } else { Exit::Enter as u8 });
    }
    let mut descriptors = Descriptors::take(&args)?;
    if let Some(running) = &args.join {
        return join::run(running, &args, descriptors, report);
    }
    let directory = match args.operands.first() {
        Some(dir) if dir.is_empty() => fail!(Exit::Enter, "DIR is empty: the command that should print it failed"),
        Some(dir) => Directory::open(Path::new(dir))?,
        None => fail!(Exit::Enter, "no DIR given; see d-enter --help"),
    };
    let caller = Caller::read(&args, &directory.config.options)?;
    if args.dry_run || args.print_oci {
        let plan = Plan::decide(args.clone(), &directory, &caller, &facts(&args, &directory, &caller)?)?;
        plan.warnings.iter().for_each(|warning| report.warn(warning));
        let json = if args.dry_run {
            serde_json::to_value(&plan).or_exit(Exit::Enter, || "cannot print the plan as JSON")?
        } else {
            oci::print(&plan, report)?
        };
        print(format!("{json:#}\n").as_bytes())?;
        return Ok(0);
    }
    enter(&args, &directory, &caller, &mut descriptors, report)
}

/// What there is to be had: here, or where the network is.
fn facts(args: &Args, directory: &Directory, caller: &Caller) -> Result<Facts> {
    match Plan::network(args, directory, caller)? {
        Net::Ns(path) => netns::enter(&path),
        // What is recorded binds, and this one asks for nothing else.
        _ if directory.config.options.map == Some(MapChoice::Single) => Ok(userns::own_facts()),
        _ => Ok(userns::facts()),
    }
}

/// Decides and runs; once more with one fact more where newuidmap promised more than it could do.
fn enter(
    args: &Args,
    directory: &Directory,
    caller: &Caller,
    descriptors: &mut Descriptors,
    report: Report,
) -> Result<u8> {
    let mut facts = facts(args, directory, caller)?;
    loop {
        let plan = Plan::decide(args.clone(), directory, caller, &facts)?;
        plan.warnings.iter().for_each(|warning| report.warn(warning));
        explain::lines(&plan).iter().for_each(|line| report.info(line));
        match launch::run(&plan, &Filters::build(&plan)?, descriptors, report) {
            Err(error) if exit_of(&error) == Exit::Unavailable && facts.helpers_missing.is_none() => {
                facts.helpers_missing = Some(d_common::report::chain(&error));
            }
            result => return result,
        }
    }
}

/// d-enter's exit code for an error: 126 and 127 are about the command, everything else is 125.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match exit_of(error) {
        code @ (Exit::CannotExecute | Exit::CommandNotFound) => code as u8,
        _ => Exit::Enter as u8,
    }
}
