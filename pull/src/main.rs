//! The command.

use std::env;
use std::process::ExitCode;

use clap::Parser;
use d_common::exit::{Exit, exit_of};
use d_common::report::{Level, Report};
use d_pull::args::{self, Args};
use d_pull::plan::Plan;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return args::explain(&error),
    };
    let report = Report::new("d-pull", Level::from_flags(args.quiet, args.verbose));
    if let Some(shell) = args.completions {
        return args::complete(shell);
    }
    // A working directory that is gone is missed only by whoever needs it.
    let cwd = env::current_dir().ok();
    let plan = Plan::new(args, &|name| env::var_os(name), cwd.as_deref());
    match plan.and_then(|plan| d_pull::run(plan, report)) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(first)) => code(first),
        Err(error) => {
            report.error(&error);
            code(exit_of(&error))
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
