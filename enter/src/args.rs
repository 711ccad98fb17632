//! What was typed: the command line of d-enter, and the same options as lower-case keys of config.json.
//!
//! Options stand before DIR; everything after it belongs to the command, as after the image in `docker run`. What the options
//! mean is decided by [`crate::plan`].

use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;

use anyhow::Result;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser};
use d_common::exit::Exit;
use d_common::fail;
use d_common::idmap::MapChoice;

use crate::choice::{GroupsFrom, ProcMode, Share, Tty};
use crate::mount_args::{self, MountArg};

/// Run a command in a rootless container made of a plain directory.
#[derive(Parser, Debug, Clone, Default)]
#[command(
    name = "d-enter",
    version,
    disable_help_flag = true,
    args_override_self = true,
    override_usage = "d-enter [OPTIONS] DIR [CMD [ARG...]]\n       d-enter [OPTIONS] --join PID|DIR [CMD [ARG...]]\n       d-enter --check [--json]"
)]
pub struct Args {
    /// Directory made by d-unpack, or a bare root filesystem; then the command, which replaces the image's Cmd
    #[arg(value_name = "DIR [CMD [ARG...]]", trailing_var_arg = true, allow_hyphen_values = false)]
    pub operands: Vec<OsString>,

    /// Id map: auto, subid, single or keep-id [env: D_MAP] [default: as unpacked]
    #[arg(long, value_name = "MAP", help_heading = "Identity")]
    pub map: Option<MapChoice>,
    /// User (and group) of the command, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Identity")]
    pub user: Option<String>,
    /// Supplementary groups: the image's, or the caller's kept
    #[arg(long, value_name = "image|keep", help_heading = "Identity")]
    pub groups: Option<GroupsFrom>,
    /// Be user 0; under a single map chown, setuid and the like succeed without effect
    #[arg(short = 'r', long, help_heading = "Identity")]
    pub fakeroot: bool,
    /// Do not emulate root under a single map
    #[arg(long, help_heading = "Identity")]
    pub no_fakeroot: bool,

    /// Mount SRC (a path, or the NAME of a volume kept in DIR) on DST; `none` forgets those of config.json
    #[arg(short, long, value_name = "[SRC:]DST[:OPT,...]", action = ArgAction::Append, help_heading = "Files")]
    pub volume: Vec<OsString>,
    /// Mount SRC on DST, whatever characters they hold
    #[arg(long, num_args = 2, value_names = ["SRC", "DST"], action = ArgAction::Append, help_heading = "Files")]
    pub bind: Vec<OsString>,
    /// The same, read-only
    #[arg(long, num_args = 2, value_names = ["SRC", "DST"], action = ArgAction::Append, help_heading = "Files")]
    pub ro_bind: Vec<OsString>,
    /// Mount a tmpfs on DST (options size=, mode=, notmpcopyup)
    #[arg(long, value_name = "DST[:OPT,...]", action = ArgAction::Append, help_heading = "Files")]
    pub tmpfs: Vec<OsString>,
    /// Show a device of the host inside
    #[arg(long, value_name = "SRC[:DST]", action = ArgAction::Append, help_heading = "Files")]
    pub device: Vec<OsString>,
    /// Root filesystem read-only, with tmpfs on /tmp, /run and /var/tmp
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// All changes vanish at the end; SIZE bounds them
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "", help_heading = "Files")]
    pub ephemeral: Option<String>,
    /// The same as --ephemeral
    #[arg(long, help_heading = "Files")]
    pub rm: bool,
    /// Leave /tmp and /run as the root filesystem has them
    #[arg(long, help_heading = "Files")]
    pub no_tmpfs: bool,
    /// How /proc comes to be: auto, new, bind or none
    #[arg(long, value_name = "MODE", help_heading = "Files")]
    pub proc: Option<ProcMode>,

    /// Set a variable, or pass the caller's on
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append, help_heading = "Process")]
    pub env: Vec<OsString>,
    /// Set the variables of a file, NAME=VALUE a line
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = "Process")]
    pub env_file: Vec<OsString>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub workdir: Option<OsString>,
    /// Run this instead of the image's Entrypoint and Cmd ('' for none)
    #[arg(long, value_name = "CMD", help_heading = "Process")]
    pub entrypoint: Option<OsString>,
    /// Host name inside [default: the last component of DIR]
    #[arg(long, value_name = "NAME", help_heading = "Process")]
    pub hostname: Option<String>,
    /// Resource limit, as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]", action = ArgAction::Append, help_heading = "Process")]
    pub ulimit: Vec<String>,
    /// File mode creation mask, octal [default: 022]
    #[arg(long, value_name = "MASK", help_heading = "Process")]
    pub umask: Option<String>,
    /// Leave descriptor FD open for the command
    #[arg(long, value_name = "FD", action = ArgAction::Append, help_heading = "Process")]
    pub keep_fd: Vec<i32>,
    /// Set a sysctl of the container's own namespaces
    #[arg(long, value_name = "NAME=VALUE", action = ArgAction::Append, help_heading = "Process")]
    pub sysctl: Vec<String>,
    /// Run the command as PID 1, for images with an init of their own
    #[arg(long, help_heading = "Process")]
    pub as_pid_1: bool,
    /// End when the program that called d-enter ends
    #[arg(long, help_heading = "Process")]
    pub die_with_parent: bool,

    /// Terminal of the container's own: auto, always or never
    #[arg(long, value_name = "WHEN", help_heading = "Terminal")]
    pub tty: Option<Tty>,
    /// The same as --tty=always
    #[arg(short = 't', overrides_with = "tty", help_heading = "Terminal")]
    pub tty_always: bool,
    /// Accepted and ignored: stdin is always connected
    #[arg(short, long, help_heading = "Terminal")]
    pub interactive: bool,

    /// Network: none, user[:OPT=VALUE,...], host or ns:PATH [env: D_NET] [default: none]
    #[arg(long, value_name = "NET", help_heading = "Namespaces")]
    pub net: Option<String>,
    /// The same as --net=user
    #[arg(short = 'n', overrides_with = "net", help_heading = "Namespaces")]
    pub net_user: bool,
    /// Forward a port of the host, as d-netup(1) has it; `none` forgets those of config.json; implies --net=user
    #[arg(short, long, value_name = "[IP:][HOST:]PORT[/udp]", action = ArgAction::Append, help_heading = "Namespaces")]
    pub publish: Vec<String>,
    /// Forward all ExposedPorts of the image, each from a free port
    #[arg(short = 'P', long, help_heading = "Namespaces")]
    pub publish_all: bool,
    /// Share a namespace with the caller: pid, ipc, uts or cgroup
    #[arg(long, value_name = "NS", action = ArgAction::Append, value_delimiter = ',', help_heading = "Namespaces")]
    pub share: Vec<Share>,
    /// Name server
    #[arg(long, value_name = "IP", action = ArgAction::Append, help_heading = "Namespaces")]
    pub dns: Vec<String>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "NAME:IP", action = ArgAction::Append, help_heading = "Namespaces")]
    pub add_host: Vec<String>,

    /// Add a capability (or ALL)
    #[arg(long, value_name = "CAP", action = ArgAction::Append, value_delimiter = ',', help_heading = "Security")]
    pub cap_add: Vec<String>,
    /// Drop a capability (or ALL)
    #[arg(long, value_name = "CAP", action = ArgAction::Append, value_delimiter = ',', help_heading = "Security")]
    pub cap_drop: Vec<String>,
    /// System call filter: default, none, or a profile in Docker's JSON
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub seccomp: Option<OsString>,
    /// No program gains privileges by being executed
    #[arg(long, help_heading = "Security")]
    pub no_new_privs: bool,
    /// Leave a masked or read-only path of /proc or /sys open (or ALL)
    #[arg(long, value_name = "PATH", action = ArgAction::Append, help_heading = "Security")]
    pub unmask: Vec<String>,

    /// Memory limit, as 512M
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<String>,
    /// Limit of memory and swap together (-1 for none)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub memory_swap: Option<String>,
    /// Processors, as 1.5
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub cpus: Option<String>,
    /// Number of processes
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = "Limits")]
    pub pids_limit: Option<String>,

    /// Write JSON lines about the container to descriptor FD
    #[arg(long, value_name = "FD", help_heading = "Monitoring")]
    pub status_fd: Option<i32>,
    /// Write the command's pid to FILE, and remove it at the end
    #[arg(long, value_name = "FILE", help_heading = "Monitoring")]
    pub pid_file: Option<OsString>,
    /// Write one line to descriptor FD when the command runs
    #[arg(long, value_name = "FD", help_heading = "Monitoring")]
    pub ready_fd: Option<i32>,
    /// Wait for a byte or the end of descriptor FD before the command is run
    #[arg(long, value_name = "FD", help_heading = "Monitoring")]
    pub block_fd: Option<i32>,

    /// Run the command in a running container: a pid, or a DIR in use
    #[arg(long, value_name = "PID|DIR", help_heading = "Other modes", conflicts_with_all = NOT_WITH_JOIN)]
    pub join: Option<OsString>,
    /// Say what this machine can do, and what to do about the rest
    #[arg(long, help_heading = "Other modes")]
    pub check: bool,
    /// With --check: as JSON
    #[arg(long, help_heading = "Other modes")]
    pub json: bool,
    /// Print what would be done, as JSON, and do nothing
    #[arg(long, help_heading = "Other modes")]
    pub dry_run: bool,
    /// Print the equal OCI runtime configuration
    #[arg(long, help_heading = "Other modes")]
    pub print_oci: bool,

    /// Errors only
    #[arg(short, long)]
    pub quiet: bool,
    /// Say what is done (twice: each step)
    #[arg(long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Print the completions of a shell
    #[arg(long, value_name = "SHELL", hide = true)]
    pub completions: Option<clap_complete::Shell>,

    #[arg(short = 'h', hide = true)]
    pub(crate) docker_hostname: bool,
    #[arg(short = 'd', long = "detach", hide = true)]
    pub(crate) docker_detach: bool,
    #[arg(long = "name", hide = true, value_name = "NAME")]
    pub(crate) docker_name: Option<String>,
    #[arg(long = "privileged", hide = true)]
    pub(crate) docker_privileged: bool,

    /// The options that mount, in the order typed.
    #[arg(skip)]
    pub mounts: Vec<MountArg>,
}

/// What a running container has already: `--join` takes it as it is.
const NOT_WITH_JOIN: [&str; 36] = [
    "map",
    "groups",
    "fakeroot",
    "no_fakeroot",
    "volume",
    "bind",
    "ro_bind",
    "tmpfs",
    "device",
    "read_only",
    "ephemeral",
    "rm",
    "no_tmpfs",
    "proc",
    "entrypoint",
    "hostname",
    "sysctl",
    "as_pid_1",
    "net",
    "net_user",
    "publish",
    "publish_all",
    "share",
    "dns",
    "add_host",
    "cap_add",
    "cap_drop",
    "seccomp",
    "no_new_privs",
    "unmask",
    "memory",
    "memory_swap",
    "cpus",
    "pids_limit",
    "check",
    "print_oci",
];

impl Args {
    /// Parses the command line.
    ///
    /// # Errors
    /// [`Outcome::Usage`] with one line; [`Outcome::Print`] for `--help` and `--version`.
    pub fn from_command_line(argv: impl IntoIterator<Item = OsString>) -> Result<Self, Outcome> {
        let argv: Vec<OsString> = argv.into_iter().collect();
        if argv.len() == 2 && argv[1] == "-h" {
            return Err(Outcome::Print(Self::command().render_help().to_string()));
        }
        // Never torn down: the process ends before that would be of use.
        let args = Self::parse_argv(&mut ManuallyDrop::new(Self::command()), argv)?;
        args.refuse_docker().map_err(|e| Outcome::Usage(e.to_string()))?;
        Ok(args)
    }

    /// Parses options that were made from config.json's keys: no operands, no modes.
    ///
    /// # Errors
    /// clap's sentence.
    pub fn from_config(argv: Vec<OsString>) -> Result<Self, Outcome> {
        Self::parse_argv(&mut Self::command(), [OsString::from("d-enter")].into_iter().chain(argv).collect())
    }

    fn parse_argv(command: &mut Command, argv: Vec<OsString>) -> Result<Self, Outcome> {
        let matches = command.try_get_matches_from_mut(argv).map_err(|e| Outcome::of(&e))?;
        let mut args = Self::from_arg_matches(&matches).map_err(|e| Outcome::of(&e))?;
        args.mounts = mount_args::in_order(&matches);
        if args.operands.get(1).is_some_and(|a| a == "--") && args.join.is_none() {
            args.operands.remove(1);
        }
        if args.net_user {
            args.net = Some("user".to_owned());
        }
        if args.tty_always {
            args.tty = Some(Tty::Always);
        }
        if args.rm && args.ephemeral.is_none() {
            args.ephemeral = Some(String::new());
        }
        Ok(args)
    }

    /// docker's options that this program does not have, each with its own way of doing it.
    fn refuse_docker(&self) -> Result<()> {
        if self.docker_hostname {
            fail!(Exit::Enter, "-h is not an option here: use --hostname NAME (d-enter -h alone prints the help)");
        }
        if self.docker_detach {
            fail!(
                Exit::Enter,
                "-d is not an option here: let the shell do it, d-enter DIR CMD & (or nohup, setsid, systemd-run --user)"
            );
        }
        if self.docker_name.is_some() {
            fail!(
                Exit::Enter,
                "--name is not an option here: the directory is the name (--hostname sets the host name)"
            );
        }
        if self.docker_privileged {
            fail!(
                Exit::Enter,
                "--privileged is not an option here: say what is needed, as --cap-add=ALL --seccomp=none --unmask=ALL"
            );
        }
        Ok(())
    }
}

/// Why parsing ended without arguments.
#[derive(Debug)]
pub enum Outcome {
    /// Wrong usage, one line.
    Usage(String),
    /// A text for stdout, as a success.
    Print(String),
}

impl Outcome {
    fn of(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        if error.use_stderr() { Self::Usage(d_common::report::usage_line(&text, "d-enter")) } else { Self::Print(text) }
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
    fn clap_agrees_with_itself() {
        Args::command().debug_assert();
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
