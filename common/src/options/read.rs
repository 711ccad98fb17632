//! Reading a command line by the table: `--opt VALUE` and `--opt=VALUE`, `-abc`, no abbreviations, and each error is one line
//! that names the option (d-utils(7), ARGUMENTS and MESSAGES).

use std::ffi::{OsStr, OsString};

use anyhow::Result;
use lexopt::{Arg, Parser};

use super::{Operands, Opt, Print, Set, Tool, Wrong};
use crate::exit::{Exit, failure};
use crate::output;

/// Why there are no arguments to work with.
#[derive(Debug)]
pub enum Outcome {
    /// Wrong usage, one line.
    Usage(String),
    /// A text for stdout, as a success.
    Print(String),
}

impl Outcome {
    /// Prints what is to be printed.
    ///
    /// # Errors
    /// Wrong usage, with the exit code `usage`; stdout's.
    pub fn end(self, usage: Exit) -> Result<()> {
        match self {
            Self::Usage(line) => Err(failure(usage, line)),
            Self::Print(text) => output::print(text.as_bytes()),
        }
    }

    /// The same, with a word about the help of `tool`.
    #[must_use]
    pub fn pointing_to(self, tool: &str) -> Self {
        match self {
            Self::Usage(line) => Self::Usage(format!("{line}; see {tool} --help")),
            print @ Self::Print(_) => print,
        }
    }
}

impl From<lexopt::Error> for Outcome {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl<A: Default> Tool<A> {
    /// Reads a command line, which begins with the program's name.
    ///
    /// # Errors
    /// [`Outcome::Usage`] with one line; [`Outcome::Print`] for `--help` and the like.
    pub fn parse<W: Into<OsString>>(&self, argv: impl IntoIterator<Item = W>) -> Result<A, Outcome> {
        let words = argv.into_iter().skip(1).map(Into::into).collect();
        self.read(words).map(|(args, _)| args).map_err(|outcome| outcome.pointing_to(self.name))
    }

    /// Reads words; returns also which options were among them, by name.
    ///
    /// # Errors
    /// Those of [`Tool::parse`], without a word about --help.
    pub fn read(&self, words: Vec<OsString>) -> Result<(A, Vec<&'static str>), Outcome> {
        let mut args = A::default();
        let mut given = Vec::new();
        let mut parser = Parser::from_args(words);
        loop {
            if let Operands::AndCommand(_, command) = self.takes
                && let Some(mut rest) = parser.try_raw_args()
                && rest.next_if(|word| word == "--").is_some()
            {
                command(&mut args, rest.collect());
                break;
            }
            let Some(word) = parser.next()? else { break };
            let (found, letter) = match word {
                Arg::Short(letter) => (self.by_letter(letter).ok_or_else(|| format!("-{letter}")), true),
                Arg::Long(name) => (self.by_name(name).ok_or_else(|| format!("--{name}")), false),
                Arg::Value(word) => match self.takes {
                    Operands::Anywhere(take) | Operands::AndCommand(take, _) => {
                        let name = self.operands.first().map_or("it", |(name, _)| name.trim_end_matches('.'));
                        take(&mut args, word.clone()).map_err(|why| wrong(name, &word, &why))?;
                        continue;
                    }
                    Operands::AtTheEnd(take) => {
                        take(&mut args, [word].into_iter().chain(parser.raw_args()?).collect());
                        break;
                    }
                },
            };
            let option = found.map_err(|name| Outcome::Usage(format!("there is no option {name}")))?;
            given.push(option.name());
            match option.set {
                Set::Prints(print) => {
                    return Err(Outcome::Print(self.printed(option, print, letter, &mut parser)?));
                }
                _ => option.take(&mut args, &mut parser)?,
            }
        }
        self.exclude(&given)?;
        Ok((args, given))
    }

    fn printed(&self, option: &Opt<A>, print: Print, letter: bool, parser: &mut Parser) -> Result<String, Outcome> {
        if print == Print::Completions {
            let shell = option.value(parser)?;
            return self.completions(&shell).map_err(|why| wrong(option.name(), &shell, &why));
        }
        // What follows a letter is the next letter, but what follows `=` is as wrong as it is for a switch.
        if let Some(value) = parser.optional_value().filter(|_| !letter) {
            return Err(lexopt::Error::UnexpectedValue { option: option.name().to_owned(), value }.into());
        }
        Ok(match print {
            Print::Help if !letter => self.help(),
            Print::Version => self.version(),
            _ => self.summary(),
        })
    }

    fn exclude(&self, given: &[&str]) -> Result<(), Outcome> {
        let pairs = self.excludes.iter().flat_map(|(option, others)| others.iter().map(move |other| (*option, *other)));
        match pairs.into_iter().find(|(option, other)| given.contains(option) && given.contains(other)) {
            Some((option, other)) => Err(Outcome::Usage(format!("{option} cannot be used with {other}"))),
            None => Ok(()),
        }
    }
}

impl<A> Opt<A> {
    /// Does what the option does, with the values that follow it.
    fn take(&self, args: &mut A, parser: &mut Parser) -> Result<(), Outcome> {
        let with = |args: &mut A, set: fn(&mut A, OsString) -> Result<(), Wrong>, value: OsString| {
            set(args, value.clone()).map_err(|why| wrong(self.name(), &value, &why))
        };
        match self.set {
            Set::Switch(set) => set(args),
            Set::Maybe(set) => with(args, set, parser.optional_value().unwrap_or_default())?,
            Set::One(set) | Set::Dashed(set) | Set::Word(_, set) | Set::Each(set) => {
                with(args, set, self.value(parser)?)?;
            }
            Set::Many(set) => {
                parser.values().map_err(|_| self.missing())?.try_for_each(|value| with(args, set, value))?;
            }
            Set::Pair(set) => set(args, self.value(parser)?, self.value(parser)?),
            Set::Refused(instead) => {
                return Err(Outcome::Usage(format!("{} is not an option here: {instead}", self.name())));
            }
            Set::Prints(_) => {}
        }
        Ok(())
    }

    /// A value: what follows is none if it looks like an option.
    fn value(&self, parser: &mut Parser) -> Result<OsString, Outcome> {
        if let Some(value) = parser.optional_value() {
            return Ok(value);
        }
        let value = parser.value().map_err(|_| self.missing())?;
        let is_option = value.as_encoded_bytes().starts_with(b"-") && value != "-";
        if is_option && !matches!(self.set, Set::Dashed(_)) { Err(self.missing()) } else { Ok(value) }
    }

    fn missing(&self) -> Outcome {
        let values: Vec<String> = self.values().map(|name| format!(" <{name}>")).collect();
        Outcome::Usage(format!("{} needs a value: {}{}", self.name(), self.name(), values.concat()))
    }
}

fn wrong(name: &str, value: &OsStr, why: &str) -> Outcome {
    Outcome::Usage(format!("{name} cannot be {:?}: {why}", value.to_string_lossy()))
}
