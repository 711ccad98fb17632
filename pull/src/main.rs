//! The command.

use std::env;
use std::process::ExitCode;

use d_common::exit::{Exit, exit_of};
use d_common::report::{Level, Report};
use d_pull::args::TOOL;
use d_pull::plan::Plan;

fn main() -> ExitCode {
    let mut report = Report::new("d-pull", Level::Normal);
    let result = match TOOL.parse(env::args_os()) {
        Err(outcome) => outcome.end(Exit::Usage).map(|()| None),
        Ok(args) => {
            report.level = Level::from_flags(args.quiet, args.verbose);
            // A working directory that is gone is missed only by whoever needs it.
            let cwd = env::current_dir().ok();
            let plan = Plan::new(args, &|name| env::var_os(name), cwd.as_deref());
            plan.and_then(|plan| d_pull::run(plan, report))
        }
    };
    match result {
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
