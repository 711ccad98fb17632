//! The command: parse, plan, run, report, exit.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use clap::Parser;
use d_common::exit::exit_of;
use d_common::report::{Level, Report};
use d_unpack::args::{self, Args};
use d_unpack::plan::Plan;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return args::explain(&error),
    };
    if let Some(shell) = args.completions {
        return args::complete(shell);
    }
    let report = Report::new("d-unpack", Level::from_flags(args.quiet, args.verbose));
    match Plan::new(args, &|name| env::var_os(name)).and_then(|plan| d_unpack::run(&plan, &report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report.error(&error);
            ExitCode::from(exit_of(&error) as u8)
        }
    }
}
