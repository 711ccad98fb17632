//! d-enter: see d-enter(1).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use d_common::exit::Exit;
use d_common::report::{Level, Report};
use d_enter::args::Args;
use d_enter::exit_code;

fn main() -> ExitCode {
    let parsed = Args::from_command_line(std::env::args_os());
    let level = parsed.as_ref().map_or(Level::Normal, |args| Level::from_flags(args.quiet, args.verbose));
    let report = Report::new("d-enter", level);
    let result = match parsed {
        Ok(args) => d_enter::run(args, report),
        Err(outcome) => outcome.end(Exit::Enter).map(|()| 0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}
