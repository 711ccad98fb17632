//! What was typed: the command line of d-enter, and the same options as lower-case keys of config.json.
//!
//! Options stand before DIR; everything after it belongs to the command, as after the image in `docker run`. What the options
//! mean is decided by [`crate::plan`]. They are read by lexopt and a table: clap, which prints the help and the completions,
//! would need as long for the command line as the kernel for a container's mounts.

use std::ffi::{OsStr, OsString};

use anyhow::Result;
use clap::{Arg, ArgAction, Command};
use d_common::idmap::MapChoice;

use crate::choice::{GroupsFrom, ProcMode, Share, Tty};
use crate::mount_args::MountArg;
use crate::options::{self, Opt, Print, Set};

/// What was typed. `options.rs` tells what each is.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Args {
    pub operands: Vec<OsString>,
    pub map: Option<MapChoice>,
    pub user: Option<String>,
    pub groups: Option<GroupsFrom>,
    pub fakeroot: bool,
    pub no_fakeroot: bool,
    pub mounts: Vec<MountArg>,
    pub forget_volumes: bool,
    pub read_only: bool,
    pub ephemeral: Option<String>,
    pub no_tmpfs: bool,
    pub proc: Option<ProcMode>,
    pub env: Vec<OsString>,
    pub env_file: Vec<OsString>,
    pub workdir: Option<OsString>,
    pub entrypoint: Option<OsString>,
    pub hostname: Option<String>,
    pub ulimit: Vec<String>,
    pub umask: Option<String>,
    pub keep_fd: Vec<i32>,
    pub sysctl: Vec<String>,
    pub as_pid_1: bool,
    pub die_with_parent: bool,
    pub tty: Option<Tty>,
    pub net: Option<String>,
    pub publish: Vec<String>,
    pub publish_all: bool,
    pub share: Vec<Share>,
    pub dns: Vec<String>,
    pub add_host: Vec<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub seccomp: Option<OsString>,
    pub no_new_privs: bool,
    pub unmask: Vec<String>,
    pub memory: Option<String>,
    pub memory_swap: Option<String>,
    pub cpus: Option<String>,
    pub pids_limit: Option<String>,
    pub status_fd: Option<i32>,
    pub pid_file: Option<OsString>,
    pub ready_fd: Option<i32>,
    pub block_fd: Option<i32>,
    pub join: Option<OsString>,
    pub check: bool,
    pub json: bool,
    pub dry_run: bool,
    pub print_oci: bool,
    pub quiet: bool,
    pub verbose: u8,
}

/// Why parsing ended without arguments.
#[derive(Debug)]
pub enum Outcome {
    /// Wrong usage, one line.
    Usage(String),
    /// A text for stdout, as a success.
    Print(Vec<u8>),
}

impl From<lexopt::Error> for Outcome {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Args {
    /// Parses the command line.
    ///
    /// # Errors
    /// [`Outcome::Usage`] with one line; [`Outcome::Print`] for `--help` and the like.
    pub fn from_command_line(argv: impl IntoIterator<Item = OsString>) -> Result<Self, Outcome> {
        let argv: Vec<OsString> = argv.into_iter().skip(1).collect();
        if argv == ["-h"] {
            return Err(Outcome::Print(command().render_help().to_string().into()));
        }
        Self::from_words(argv).map_err(|outcome| match outcome {
            Outcome::Usage(line) => Outcome::Usage(format!("{line}; see d-enter --help")),
            print @ Outcome::Print(_) => print,
        })
    }

    /// Parses words without the program's name in front.
    ///
    /// # Errors
    /// Those of [`Args::from_command_line`], without a word about --help.
    pub fn from_words(words: Vec<OsString>) -> Result<Self, Outcome> {
        let mut args = Self::default();
        let mut parser = lexopt::Parser::from_args(words);
        let mut not_with_join = None;
        while let Some(word) = parser.next()? {
            let found = match word {
                lexopt::Arg::Short(letter) => options::by_letter(letter).ok_or_else(|| format!("-{letter}")),
                lexopt::Arg::Long(name) => options::by_name(name).ok_or_else(|| format!("--{name}")),
                lexopt::Arg::Value(dir) => {
                    args.operands.push(dir);
                    args.operands.extend(parser.raw_args()?);
                    break;
                }
            };
            let option = found.map_err(|name| Outcome::Usage(format!("there is no option {name}")))?;
            if !options::WITH_JOIN.contains(&option.name()) {
                not_with_join.get_or_insert(option.name());
            }
            args.take(option, &mut parser)?;
        }
        match (&args.join, not_with_join) {
            (Some(_), Some(name)) => return Err(Outcome::Usage(format!("{name} cannot be used with --join"))),
            (None, _) if args.operands.get(1).is_some_and(|word| word == "--") => _ = args.operands.remove(1),
            _ => {}
        }
        Ok(args)
    }

    fn take(&mut self, option: &Opt, parser: &mut lexopt::Parser) -> Result<(), Outcome> {
        let wrong = |value: &OsStr, why: String| {
            Outcome::Usage(format!("{} cannot be {:?}: {why}", option.name(), value.to_string_lossy()))
        };
        match option.set {
            Set::Switch(set) => set(self),
            Set::Maybe(set) => {
                let value = parser.optional_value().unwrap_or_default();
                set(self, value.clone()).map_err(|why| wrong(&value, why))?;
            }
            Set::One(set) | Set::Each(set) => {
                let value = value(option, parser)?;
                set(self, value.clone()).map_err(|why| wrong(&value, why))?;
            }
            Set::Pair(mount) => self.mounts.push(mount(value(option, parser)?, value(option, parser)?)),
            Set::Refused(instead) => {
                return Err(Outcome::Usage(format!("{} is not an option here: {instead}", option.name())));
            }
            Set::Prints(Print::Help) => return Err(Outcome::Print(command().render_long_help().to_string().into())),
            Set::Prints(Print::Version) => return Err(Outcome::Print(command().render_version().into())),
            Set::Prints(Print::Completions) => {
                let shell = value(option, parser)?;
                let known = shell.to_str().and_then(|name| name.parse::<clap_complete::Shell>().ok());
                let known =
                    known.ok_or_else(|| wrong(&shell, "it is one of bash, elvish, fish, powershell, zsh".into()))?;
                let mut text = Vec::new();
                clap_complete::generate(known, &mut command(), "d-enter", &mut text);
                return Err(Outcome::Print(text));
            }
        }
        Ok(())
    }
}

/// A value: what follows is none if it looks like an option.
fn value(option: &Opt, parser: &mut lexopt::Parser) -> Result<OsString, Outcome> {
    let missing = || {
        let values: Vec<String> = option.values().map(|name| format!(" <{name}>")).collect();
        Outcome::Usage(format!("{} needs a value: {}{}", option.name(), option.name(), values.concat()))
    };
    if let Some(value) = parser.optional_value() {
        return Ok(value);
    }
    let value = parser.value().map_err(|_| missing())?;
    let is_option = value.as_encoded_bytes().starts_with(b"-") && value != "-";
    if is_option && !options::NEGATIVE.contains(&option.name()) { Err(missing()) } else { Ok(value) }
}

/// The same for clap, to print.
fn command() -> Command {
    let operands = Arg::new("operands").value_name("DIR [CMD [ARG...]]").num_args(0..).trailing_var_arg(true).help(
        "Directory made by d-unpack, or a bare root filesystem; then the command, which replaces the image's Cmd",
    );
    let command = Command::new("d-enter")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run a command in a rootless container made of a plain directory")
        .override_usage(
            "d-enter [OPTIONS] DIR [CMD [ARG...]]\n       d-enter [OPTIONS] --join PID|DIR [CMD [ARG...]]\n       d-enter --check [--json]",
        )
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(operands);
    let listed = options::OPTIONS.iter().flat_map(|(heading, options)| options.iter().map(move |o| (heading, o)));
    listed.filter(|(_, option)| !option.help.is_empty()).fold(command, |command, (heading, option)| {
        let count = option.values().count();
        let takes = match option.set {
            Set::Maybe(_) => 0..=1,
            _ => count..=count,
        };
        let arg = Arg::new(option.name()).help(option.help).value_names(option.values().collect::<Vec<_>>());
        let arg = arg.action(if count == 0 { ArgAction::SetTrue } else { ArgAction::Append });
        let arg =
            if count == 0 { arg } else { arg.num_args(takes).require_equals(matches!(option.set, Set::Maybe(_))) };
        let arg = if *heading == "Options" { arg } else { arg.help_heading(*heading) };
        let arg = option.short().into_iter().fold(arg, Arg::short);
        command.arg(option.long().into_iter().fold(arg, Arg::long))
    })
}

/// Whether a list option was emptied: `none` forgets what config.json (or an earlier one) said.
pub fn after_none<T: Clone + AsRef<OsStr>>(values: &[T]) -> (bool, Vec<T>) {
    match values.iter().rposition(|v| v.as_ref() == "none") {
        Some(i) => (true, values[i + 1..].to_vec()),
        None => (false, values.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Args {
        Args::from_command_line(line.split(' ').map(OsString::from)).unwrap()
    }

    fn refuse(line: &str) -> String {
        match Args::from_command_line(line.split(' ').map(OsString::from)) {
            Err(Outcome::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_takes_the_table() {
        command().debug_assert();
    }

    #[test]
    fn what_follows_dir_is_the_commands() {
        let args = parse("d-enter -e A=1 ./deb -v --net host -- x");
        assert_eq!(args.operands, ["./deb", "-v", "--net", "host", "--", "x"]);
        assert_eq!(args.env, ["A=1"]);
        assert_eq!(parse("d-enter ./deb -- sh -c x").operands, ["./deb", "sh", "-c", "x"]);
        assert_eq!(parse("d-enter ./deb sh -- x").operands, ["./deb", "sh", "--", "x"]);
        assert_eq!(parse("d-enter -- ./deb -x").operands, ["./deb", "-x"]);
    }

    #[test]
    fn mounts_keep_their_order() {
        let args = parse("d-enter --tmpfs /a -v /b:/c --ro-bind d e --bind f g -v h d");
        assert_eq!(
            args.mounts,
            [
                MountArg::Tmpfs("/a".into()),
                MountArg::Volume("/b:/c".into()),
                MountArg::RoBind("d".into(), "e".into()),
                MountArg::Bind("f".into(), "g".into()),
                MountArg::Volume("h".into()),
            ]
        );
    }

    #[test]
    fn dockers_letters() {
        let args = parse("d-enter -it --rm -n -p 8080:80 -P -m 1G d");
        assert_eq!((args.tty, args.net.as_deref()), (Some(Tty::Always), Some("user")));
        assert!(args.ephemeral.is_some() && args.publish_all);
        assert!(refuse("d-enter -h x d").contains("--hostname"));
        assert!(refuse("d-enter -d d").contains('&'));
        assert!(refuse("d-enter --name x d").contains("directory"));
        assert!(refuse("d-enter --privileged d").contains("--cap-add"));
        assert!(matches!(Args::from_command_line(["d-enter".into(), "-h".into()]), Err(Outcome::Print(_))));
    }

    #[test]
    fn no_abbreviations_and_one_line() {
        assert!(!refuse("d-enter --hostn x d").contains('\n'));
        assert!(!refuse("d-enter --tty sometimes d").contains('\n'));
        assert_eq!(parse("d-enter --ephemeral=1G d").ephemeral.as_deref(), Some("1G"));
        assert_eq!(parse("d-enter --ephemeral d").ephemeral.as_deref(), Some(""));
    }
}
