//! What is printed of the table: help, version, completions. clap writes them, from a `Command` made of the table.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, ArgAction, Command, ValueHint};
use clap_complete::Shell;

use super::{Operands, Opt, Set, Tool, Wrong};

/// What an option prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Print {
    /// The help; its summary where the option is given as a letter.
    Help,
    /// The help's summary.
    Summary,
    /// Name and version.
    Version,
    /// The completions of the shell that is its value.
    Completions,
}

impl<A> Tool<A> {
    /// The help, with all that there is to say.
    pub fn help(&self) -> String {
        self.command().render_long_help().to_string()
    }

    /// The help, with a line or two for each option.
    pub fn summary(&self) -> String {
        self.command().render_help().to_string()
    }

    /// Name and version.
    pub fn version(&self) -> String {
        self.command().render_version()
    }

    /// The completions of a shell.
    ///
    /// # Errors
    /// Which shells there are.
    pub fn completions(&self, shell: &OsStr) -> Result<Vec<u8>, Wrong> {
        let known = shell.to_str().and_then(|name| name.parse::<Shell>().ok());
        let shell = known.ok_or("it is one of bash, elvish, fish, powershell, zsh")?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut self.command(), self.name, &mut text);
        Ok(text)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.name)
            .version(self.version)
            .about(self.about)
            .override_usage(self.usage.join("\n       "))
            .disable_help_flag(true)
            .disable_version_flag(true);
        if !self.details.is_empty() {
            command = command.long_about(format!("{}.\n\n{}", self.about, self.details));
        }
        if !self.closing.is_empty() {
            command = command.after_help(self.closing);
        }
        for (i, (name, help)) in self.operands.iter().enumerate() {
            let operand = Arg::new(*name).value_name(name.trim_end_matches("...")).help(*help);
            let operand = if name.ends_with("...") { operand.num_args(0..) } else { operand };
            command = command.arg(match self.takes {
                Operands::AtTheEnd(_) => operand.trailing_var_arg(true),
                Operands::AndCommand(..) if i + 1 == self.operands.len() => operand.last(true),
                _ => operand,
            });
        }
        for (heading, options) in self.options {
            for option in options.iter().filter(|option| !option.help.is_empty()) {
                let others = self.excludes.iter().filter(|(name, _)| *name == option.name());
                let arg = option.arg().conflicts_with_all(others.flat_map(|(_, others)| *others));
                command = command.arg(if *heading == "Options" { arg } else { arg.help_heading(*heading) });
            }
        }
        command
    }
}

impl<A> Opt<A> {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name()).help(self.help);
        let arg = self.short().into_iter().fold(arg, Arg::short);
        let arg = self.long().into_iter().fold(arg, Arg::long);
        let names: Vec<&str> = self.values().map(|name| name.trim_end_matches("...")).collect();
        let Some(first) = names.first().copied() else {
            return arg.action(if self.counts() { ArgAction::Count } else { ArgAction::SetTrue });
        };
        let arg = match self.set {
            Set::Maybe(_) => arg.num_args(0..=1).require_equals(true),
            Set::Many(_) => arg.num_args(1..),
            _ => arg.num_args(names.len()),
        };
        let arg = match first {
            "FILE" => arg.value_hint(ValueHint::FilePath),
            "DIR" => arg.value_hint(ValueHint::DirPath),
            _ => arg,
        };
        let arg = match self.set {
            Set::Each(_) | Set::Many(_) | Set::Pair(_) => arg.action(ArgAction::Append),
            _ => arg.action(ArgAction::Set),
        };
        let arg = arg.value_names(names);
        let Set::Word(words, _) = self.set else { return arg };
        let known = |(word, help): (&'static str, &'static str)| {
            let value = PossibleValue::new(word);
            if help.is_empty() { value } else { value.help(help) }
        };
        arg.value_parser(PossibleValuesParser::new(words().into_iter().map(known)))
    }
}
