//! What becomes of the values of options: most tables are written with these.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Why a value is none: what stands behind "--option cannot be VALUE: ".
pub type Wrong = String;

/// The values of an option that takes one of a few words.
pub trait Words: Copy + 'static {
    /// Each with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// What a list of them says of it.
    fn help(self) -> &'static str {
        ""
    }
}

/// Words, and what a list says of each.
pub type Listed = Vec<(&'static str, &'static str)>;

/// The words of `T`.
pub fn listed<T: Words>() -> Listed {
    T::WORDS.iter().map(|(word, value)| (*word, value.help())).collect()
}

/// The value that a word stands for.
///
/// # Errors
/// Which words there are.
pub fn of<T: Words>(word: &OsStr) -> Result<T, Wrong> {
    let found = T::WORDS.iter().find(|(name, _)| word == *name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
        format!("it is one of {}", words.join(", "))
    })
}

/// The word of a value.
pub fn word<T: Words + PartialEq>(value: T) -> &'static str {
    T::WORDS.iter().find(|(_, of)| *of == value).map_or("", |(word, _)| word)
}

/// Sets a field; what was there before goes.
///
/// # Errors
/// None: this and [`each`] end a row of a table.
pub fn one<T>(field: &mut Option<T>, value: T) -> Result<(), Wrong> {
    *field = Some(value);
    Ok(())
}

/// Adds to a list.
///
/// # Errors
/// None.
pub fn each<T>(field: &mut Vec<T>, value: T) -> Result<(), Wrong> {
    field.push(value);
    Ok(())
}

/// Text.
///
/// # Errors
/// What is not UTF-8.
pub fn text(value: OsString) -> Result<String, Wrong> {
    value.into_string().map_err(|_| "it is not UTF-8".to_owned())
}

/// A path.
///
/// # Errors
/// The empty one.
pub fn path(value: OsString) -> Result<PathBuf, Wrong> {
    if value.is_empty() { Err("the command that should print it failed".to_owned()) } else { Ok(value.into()) }
}

/// What has a syntax of its own.
///
/// # Errors
/// The type's.
pub fn parsed<T: FromStr<Err: Display>>(value: OsString) -> Result<T, Wrong> {
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// A number of `range`.
///
/// # Errors
/// What is none, or lies outside.
pub fn number<T: FromStr + PartialOrd + Display>(value: OsString, range: RangeInclusive<T>) -> Result<T, Wrong> {
    let found = text(value)?.parse().ok().filter(|number| range.contains(number));
    found.ok_or_else(|| format!("it is not a number from {} to {}", range.start(), range.end()))
}

/// A descriptor.
///
/// # Errors
/// What is no number.
pub fn descriptor(value: OsString) -> Result<i32, Wrong> {
    text(value)?.parse().map_err(|_| "it is not a descriptor's number".to_owned())
}
