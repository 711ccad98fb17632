//! The command: parse, plan, run, report, exit.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use d_common::exit::{Exit, exit_of};
use d_common::report::{Level, Report};
use d_common::sys::blocks::FileBacked;
use d_unpack::args::TOOL;
use d_unpack::plan::Plan;

/// Large windows of decoders lie in a file.
#[global_allocator]
static MEMORY: FileBacked = FileBacked;

fn main() -> ExitCode {
    let mut report = Report::new("d-unpack", Level::Normal);
    let result = match TOOL.parse(env::args_os()) {
        Err(outcome) => outcome.end(Exit::Usage).map(|()| None),
        Ok(args) => {
            report.level = Level::from_flags(args.quiet, args.verbose);
            Plan::new(args, &|name| env::var_os(name)).and_then(|plan| d_unpack::run(&plan, &report))
        }
    };
    match result {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(first)) => ExitCode::from(first as u8),
        Err(error) => {
            report.error(&error);
            ExitCode::from(exit_of(&error) as u8)
        }
    }
}
