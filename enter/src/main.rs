//! d-enter: see d-enter(1).
#![forbid(unsafe_code)]

use std::process::ExitCode;

use d_common::exit::{Exit, failure};
use d_common::output::print;
use d_common::report::{Level, Report};
use d_enter::args::{Args, Outcome};
use d_enter::exit_code;

fn main() -> ExitCode {
    let parsed = Args::from_command_line(std::env::args_os());
    let level = parsed.as_ref().map_or(Level::Normal, |args| Level::from_flags(args.quiet, args.verbose));
    let report = Report::new("d-enter", level);
    let result = match parsed {
        Ok(args) => d_enter::run(args, report),
        Err(Outcome::Print(text)) => print(&text).map(|()| 0),
        Err(Outcome::Usage(line)) => Err(failure(Exit::Enter, line)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report.error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}
