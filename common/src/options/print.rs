//! What is printed of the table: name and version, the help, and its summary.

use std::env;

use rustix::stdio::{stderr, stdout};
use rustix::termios::tcgetwinsize;

use super::{Opt, Set, Tool, value};

/// The longest line, also where the terminal has room for more.
const MAX_WIDTH: usize = 100;
/// The least room for an explanation, however narrow the terminal.
const MIN_ROOM: usize = 20;
/// What stands before an explanation that has lines of its own.
const INDENT: usize = 10;

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

/// An option or operand, and what is said of it.
pub(super) struct Row {
    pub spec: String,
    pub help: &'static str,
    pub words: value::Listed,
}

impl<A> Tool<A> {
    /// The help, with all that there is to say.
    pub fn help(&self) -> String {
        let about = match self.details {
            "" => wrapped(self.about, 0, width()),
            details => {
                format!("{}\n\n{}", wrapped(&format!("{}.", self.about), 0, width()), wrapped(details, 0, width()))
            }
        };
        self.page(about, detailed)
    }

    /// The help, with a line or two for each option.
    pub fn summary(&self) -> String {
        self.page(wrapped(self.about, 0, width()), aligned)
    }

    /// Name and version.
    pub fn version(&self) -> String {
        format!("{} {}\n", self.name, self.version)
    }

    fn page(&self, about: String, lay_out: fn(&[Row], usize) -> String) -> String {
        let width = width();
        let operands = self.operands.iter().map(|(name, help)| Row {
            spec: format!("[{}]{}", name.trim_end_matches("..."), if name.ends_with("...") { "..." } else { "" }),
            help,
            words: Vec::new(),
        });
        let mut parts = vec![about, format!("Usage: {}", self.usage.join("\n       "))];
        parts.push(format!("Arguments:\n{}", lay_out(&operands.collect::<Vec<_>>(), width)));
        for (heading, options) in self.options {
            let rows: Vec<Row> = options.iter().filter(|option| !option.help.is_empty()).map(Opt::row).collect();
            parts.push(format!("{heading}:\n{}", lay_out(&rows, width)));
        }
        if !self.closing.is_empty() {
            parts.push(wrapped(self.closing, 0, width));
        }
        parts.join("\n\n") + "\n"
    }
}

impl<A> Opt<A> {
    /// As in a manual, its values in angle brackets: `-j, --jobs <N>`.
    fn row(&self) -> Row {
        let values: Vec<String> = self.values().map(|name| format!("<{}>", name.trim_end_matches("..."))).collect();
        let values = match self.set {
            Set::Maybe(_) => format!("[={}]", values.concat()),
            Set::Many(_) => format!(" {}...", values.concat()),
            _ => values.into_iter().map(|value| format!(" {value}")).collect(),
        };
        let names: Vec<&str> = self.spec.split(' ').filter(|word| word.starts_with('-')).collect();
        let blanks = if self.short().is_some() { "" } else { "    " };
        let words = if let Set::Word(words, _) = self.set { words() } else { Vec::new() };
        Row { spec: format!("{blanks}{}{values}", names.join(" ")), help: self.help, words }
    }
}

/// Explanations beside what they explain; below it where that leaves them too little room.
pub(super) fn aligned(rows: &[Row], width: usize) -> String {
    let explained = |row: &Row| {
        let words: Vec<&str> = row.words.iter().map(|(word, _)| *word).collect();
        let words = if words.is_empty() { String::new() } else { format!(" [possible values: {}]", words.join(", ")) };
        format!("{}{words}", row.help)
    };
    let column = rows.iter().map(|row| row.spec.chars().count()).max().unwrap_or(0);
    let indent = column + 4;
    let below = indent * 5 > width * 2 && rows.iter().any(|row| explained(row).chars().count() + indent > width);
    let line = |row: &Row| match below {
        true => format!("  {}\n{:INDENT$}{}", row.spec, "", wrapped(&explained(row), INDENT, width)),
        false => format!("  {:column$}  {}", row.spec, wrapped(&explained(row), indent, width)),
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Explanations below what they explain, with one for each of the words that an option takes.
pub(super) fn detailed(rows: &[Row], width: usize) -> String {
    let below = " ".repeat(INDENT);
    let paragraph = |row: &Row| {
        let mut text = format!("  {}\n{below}{}", row.spec, wrapped(row.help, INDENT, width));
        let column = row.words.iter().map(|(word, _)| word.len() + 1).max().unwrap_or(0);
        if column > 0 {
            text += &format!("\n\n{below}Possible values:");
        }
        for (word, help) in &row.words {
            let help = wrapped(help, INDENT + column + 3, width);
            text += &format!("\n{below}- {:column$} {help}", format!("{word}:"));
        }
        text
    };
    rows.iter().map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// `text` in lines that end before `width` when they begin at `indent`, all but the first with blanks up to there.
pub(super) fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let room = width.saturating_sub(indent).max(MIN_ROOM);
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > room {
            out += "\n";
            out += &" ".repeat(indent);
            column = 0;
        } else if column > 0 {
            out += " ";
            column += 1;
        }
        out += word;
        column += length;
    }
    out
}

/// The width of the terminal, or what COLUMNS says.
fn width() -> usize {
    let terminal = [stdout(), stderr()].into_iter().find_map(|fd| tcgetwinsize(fd).ok()).map(|size| size.ws_col.into());
    let columns = || env::var("COLUMNS").ok()?.parse().ok();
    terminal.filter(|width| *width > 0).or_else(columns).unwrap_or(MAX_WIDTH).min(MAX_WIDTH)
}
