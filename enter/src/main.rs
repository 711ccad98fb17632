//! d-enter: see d-enter(1).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use d_common::report::{Level, Report};
use d_enter::args::{Args, Outcome};
use d_enter::exit_code;

fn main() -> ExitCode {
    let args = match Args::from_command_line(std::env::args_os()) {
        Ok(args) => args,
        Err(Outcome::Print(text)) => return d_enter::print(&text),
        Err(Outcome::Usage(line)) => {
            Report::new("d-enter", Level::Normal).error(&anyhow::Error::msg(line));
            return ExitCode::from(125);
        }
    };
    let report = Report::new("d-enter", Level::from_flags(args.quiet, args.verbose));
    match d_enter::run(args, report) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}
