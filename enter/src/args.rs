//! What was typed: the command line of d-enter, and the same options as lower-case keys of config.json.
//!
//! Options stand before DIR; everything after it belongs to the command, as after the image in `docker run`. What the options
//! mean is decided by [`crate::plan`].

use std::ffi::{OsStr, OsString};

use d_common::idmap::MapChoice;
use d_common::options::Outcome;

use crate::choice::{GroupsFrom, ProcMode, Share, Tty};
use crate::mount_args::MountArg;
use crate::options::{TOOL, WITH_JOIN};

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

impl Args {
    /// Parses the command line.
    ///
    /// # Errors
    /// [`Outcome::Usage`] with one line; [`Outcome::Print`] for `--help` and the like.
    pub fn from_command_line(argv: impl IntoIterator<Item = OsString>) -> Result<Self, Outcome> {
        let words: Vec<OsString> = argv.into_iter().skip(1).collect();
        if words == ["-h"] {
            return Err(Outcome::Print(TOOL.summary()));
        }
        Self::from_words(words).map_err(|outcome| outcome.pointing_to(TOOL.name))
    }

    /// Parses words without the program's name in front.
    ///
    /// # Errors
    /// Those of [`Args::from_command_line`], without a word about --help.
    pub fn from_words(words: Vec<OsString>) -> Result<Self, Outcome> {
        let (mut args, given) = TOOL.read(words)?;
        match (&args.join, given.iter().find(|name| !WITH_JOIN.contains(name))) {
            (Some(_), Some(name)) => return Err(Outcome::Usage(format!("{name} cannot be used with --join"))),
            (None, _) if args.operands.get(1).is_some_and(|word| word == "--") => _ = args.operands.remove(1),
            _ => {}
        }
        Ok(args)
    }
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
    fn the_help_is_made_of_the_table() {
        assert!(TOOL.help().contains("--print-oci"));
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
