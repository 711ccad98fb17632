//! The command line of a tool as a table: how each option is written, what it does to the tool's `Args`, what the help says.
//!
//! [`Tool::parse`] reads a command line by it, with lexopt; [`Tool::help`] and [`Tool::completions`] are made of it. clap would be
//! 250 KB of each tool, and take d-enter as long for a command line as the kernel takes for a container's mounts.

mod complete;
mod print;
mod read;
pub mod value;

pub use print::Print;
pub use read::Outcome;
pub use value::{Words, Wrong};

use std::ffi::OsString;

/// A tool, as its command line shows it.
pub struct Tool<A: 'static> {
    /// Its name: `d-pull`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// What `--help` says of that and `-h` does not; may be empty.
    pub details: &'static str,
    /// The forms of its command line.
    pub usage: &'static [&'static str],
    /// What its operands are called (`REF...`), and what the help says of them.
    pub operands: &'static [(&'static str, &'static str)],
    /// Where operands stand, and what they do.
    pub takes: Operands<A>,
    /// The options, by their heading in the help.
    pub options: &'static [(&'static str, &'static [Opt<A>])],
    /// What cannot be used together: an option, and those that do not go with it.
    pub excludes: &'static [(&'static str, &'static [&'static str])],
    /// The help's last paragraph; may be empty.
    pub closing: &'static str,
}

/// Where operands stand, and what they do.
pub enum Operands<A> {
    /// Among the options, until `--`; behind it all are operands.
    Anywhere(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// Among the options, until `--`; behind it is a command.
    AndCommand(fn(&mut A, OsString) -> Result<(), Wrong>, fn(&mut A, Vec<OsString>)),
    /// Behind the options: everything from the first one on.
    AtTheEnd(fn(&mut A, Vec<OsString>)),
}

/// An option.
pub struct Opt<A> {
    /// As in a manual: `-u, --user USER[:GROUP]`; with dots behind it where it counts how often it is given.
    pub spec: &'static str,
    /// What it does.
    pub set: Set<A>,
    /// What the help says; empty for what is not in the help.
    pub help: &'static str,
}

/// What an option takes, and what it does with that.
pub enum Set<A> {
    /// Nothing.
    Switch(fn(&mut A)),
    /// A value; the last one counts.
    One(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// A value that may begin with a dash, as -1 does; the last one counts.
    Dashed(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// One of the words that are listed in the help; the last one counts.
    Word(fn() -> value::Listed, fn(&mut A, OsString) -> Result<(), Wrong>),
    /// A value after `=`, or none; the last one counts.
    Maybe(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// A value; all count.
    Each(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// All words up to the next option, or what is behind `=`; all count.
    Many(fn(&mut A, OsString) -> Result<(), Wrong>),
    /// A source and a place; all count.
    Pair(fn(&mut A, OsString, OsString)),
    /// Something is printed, and that is all.
    Prints(Print),
    /// It is known elsewhere, and here had in another way: this one.
    Refused(&'static str),
}

/// An option that is written as `spec`, does `set`, and of which the help says `help`.
pub const fn opt<A>(spec: &'static str, set: Set<A>, help: &'static str) -> Opt<A> {
    Opt { spec, set, help }
}

impl<A> Opt<A> {
    /// Its letter.
    pub fn short(&self) -> Option<char> {
        self.spec.strip_prefix('-')?.chars().next().filter(|c| *c != '-')
    }

    /// Its name, without the dashes.
    pub fn long(&self) -> Option<&'static str> {
        self.name().strip_prefix("--")
    }

    /// What its values are called.
    pub fn values(&self) -> impl Iterator<Item = &'static str> + use<A> {
        self.spec.split(' ').filter(|word| !word.starts_with('-'))
    }

    /// As messages name it: `--user`.
    pub fn name(&self) -> &'static str {
        let name = self.spec.split(' ').rfind(|word| word.starts_with('-')).unwrap_or_default();
        name.trim_end_matches('.')
    }
}

impl<A> Tool<A> {
    /// The option with this long name.
    pub fn by_name(&self, name: &str) -> Option<&'static Opt<A>> {
        self.all().find(|option| option.long() == Some(name))
    }

    /// The option with this letter.
    pub fn by_letter(&self, letter: char) -> Option<&'static Opt<A>> {
        self.all().find(|option| option.short() == Some(letter))
    }

    /// All options.
    pub fn all(&self) -> impl Iterator<Item = &'static Opt<A>> + use<A> {
        self.options.iter().flat_map(|(_, options)| *options)
    }
}

#[cfg(test)]
mod tests;
