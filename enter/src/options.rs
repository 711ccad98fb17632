//! The table of the options: how they are written, what they do to [`Args`], and what the help says of them.

use std::ffi::OsString;

use d_common::options::value::{descriptor, each, of, one, text};
use d_common::options::{Operands, Opt, Print, Set, Tool, Wrong, opt};

use crate::args::Args;
use crate::choice::Tty;
use crate::mount_args::MountArg;

use Set::{Dashed, Each, Maybe, One, Pair, Prints, Refused, Switch};

/// d-enter's command line.
pub(crate) const TOOL: Tool<Args> = Tool {
    name: "d-enter",
    version: env!("CARGO_PKG_VERSION"),
    about: "Run a command in a rootless container made of a plain directory",
    details: "",
    usage: &[
        "d-enter [OPTIONS] DIR [CMD [ARG...]]",
        "d-enter [OPTIONS] --join PID|DIR [CMD [ARG...]]",
        "d-enter --check [--json]",
    ],
    operands: &[(
        "DIR [CMD [ARG...]]...",
        "Directory made by d-unpack, or a bare root filesystem; then the command, which replaces the image's Cmd",
    )],
    // As after the image in `docker run`.
    takes: Operands::AtTheEnd(|a, words| a.operands = words),
    options: OPTIONS,
    excludes: &[],
    closing: "",
};

/// The options, by their heading in the help.
#[rustfmt::skip]
const OPTIONS: &[(&str, &[Opt<Args>])] = &[
    ("Options", &[
        opt("-q, --quiet", Switch(|a| a.quiet = true), "Errors only"),
        opt("--verbose", Switch(|a| a.verbose = a.verbose.saturating_add(1)), "Say what is done (twice: each step)"),
        opt("--help", Prints(Print::Help), "Print this help"),
        opt("-V, --version", Prints(Print::Version), "Print version"),
        opt("--completions SHELL", Prints(Print::Completions), ""),
        opt("-h", Refused("use --hostname NAME (d-enter -h alone prints the help)"), ""),
        opt("-d, --detach",
            Refused("let the shell do it, d-enter DIR CMD & (or nohup, setsid, systemd-run --user)"), ""),
        opt("--name NAME", Refused("the directory is the name (--hostname sets the host name)"), ""),
        opt("--privileged", Refused("say what is needed, as --cap-add=ALL --seccomp=none --unmask=ALL"), ""),
    ]),
    ("Identity", &[
        opt("--map MAP", One(|a, v| one(&mut a.map, of(&v)?)),
            "Id map: auto, subid, single or keep-id [env: D_MAP] [default: as unpacked]"),
        opt("-u, --user USER[:GROUP]", One(|a, v| one(&mut a.user, text(v)?)),
            "User (and group) of the command, by name or number"),
        opt("--groups image|keep", One(|a, v| one(&mut a.groups, of(&v)?)),
            "Supplementary groups: the image's, or the caller's kept"),
        opt("-r, --fakeroot", Switch(|a| a.fakeroot = true),
            "Be user 0; under a single map chown, setuid and the like succeed without effect"),
        opt("--no-fakeroot", Switch(|a| a.no_fakeroot = true), "Do not emulate root under a single map"),
    ]),
    ("Files", &[
        opt("-v, --volume [SRC:]DST[:OPT,...]", Each(volume),
            "Mount SRC (a path, or the NAME of a volume kept in DIR) on DST; `none` forgets those of config.json"),
        opt("--bind SRC DST", Pair(|a, src, dst| a.mounts.push(MountArg::Bind(src, dst))), "Mount SRC on DST, whatever characters they hold"),
        opt("--ro-bind SRC DST", Pair(|a, src, dst| a.mounts.push(MountArg::RoBind(src, dst))), "The same, read-only"),
        opt("--tmpfs DST[:OPT,...]", Each(|a, v| each(&mut a.mounts, MountArg::Tmpfs(v))),
            "Mount a tmpfs on DST (options size=, mode=, notmpcopyup)"),
        opt("--device SRC[:DST]", Each(|a, v| each(&mut a.mounts, MountArg::Device(v))),
            "Show a device of the host inside"),
        opt("--read-only", Switch(|a| a.read_only = true),
            "Root filesystem read-only, with tmpfs on /tmp, /run and /var/tmp"),
        opt("--ephemeral SIZE", Maybe(|a, v| one(&mut a.ephemeral, text(v)?)),
            "All changes vanish at the end; SIZE bounds them"),
        opt("--rm", Switch(|a| _ = a.ephemeral.get_or_insert_default()), "The same as --ephemeral"),
        opt("--no-tmpfs", Switch(|a| a.no_tmpfs = true), "Leave /tmp and /run as the root filesystem has them"),
        opt("--proc MODE", One(|a, v| one(&mut a.proc, of(&v)?)), "How /proc comes to be: auto, new, bind or none"),
    ]),
    ("Process", &[
        opt("-e, --env NAME[=VALUE]", Each(|a, v| each(&mut a.env, v)), "Set a variable, or pass the caller's on"),
        opt("--env-file FILE", Each(|a, v| each(&mut a.env_file, v)),
            "Set the variables of a file, NAME=VALUE a line"),
        opt("-w, --workdir DIR", One(|a, v| one(&mut a.workdir, v)), "Working directory"),
        opt("--entrypoint CMD", One(|a, v| one(&mut a.entrypoint, v)),
            "Run this instead of the image's Entrypoint and Cmd ('' for none)"),
        opt("--hostname NAME", One(|a, v| one(&mut a.hostname, text(v)?)),
            "Host name inside [default: the last component of DIR]"),
        opt("--ulimit NAME=SOFT[:HARD]", Each(|a, v| each(&mut a.ulimit, text(v)?)), "Resource limit, as nofile=1024:4096"),
        opt("--umask MASK", One(|a, v| one(&mut a.umask, text(v)?)), "File mode creation mask, octal [default: 022]"),
        opt("--keep-fd FD", Each(|a, v| each(&mut a.keep_fd, descriptor(v)?)),
            "Leave descriptor FD open for the command"),
        opt("--sysctl NAME=VALUE", Each(|a, v| each(&mut a.sysctl, text(v)?)),
            "Set a sysctl of the container's own namespaces"),
        opt("--as-pid-1", Switch(|a| a.as_pid_1 = true),
            "Run the command as PID 1, for images with an init of their own"),
        opt("--die-with-parent", Switch(|a| a.die_with_parent = true),
            "End when the program that called d-enter ends"),
    ]),
    ("Terminal", &[
        opt("--tty WHEN", One(|a, v| one(&mut a.tty, of(&v)?)), "Terminal of the container's own: auto, always or never"),
        opt("-t", Switch(|a| a.tty = Some(Tty::Always)), "The same as --tty=always"),
        opt("-i, --interactive", Switch(|_| {}), "Accepted and ignored: stdin is always connected"),
    ]),
    ("Namespaces", &[
        opt("--net NET", One(|a, v| one(&mut a.net, text(v)?)),
            "Network: none, user[:OPT=VALUE,...], host or ns:PATH [env: D_NET] [default: none]"),
        opt("-n", Switch(|a| a.net = Some("user".to_owned())), "The same as --net=user"),
        opt("-p, --publish [IP:][HOST:]PORT[/udp]", Each(|a, v| each(&mut a.publish, text(v)?)),
            "Forward a port of the host, as d-netup(1) has it; `none` forgets those of config.json; implies --net=user"),
        opt("-P, --publish-all", Switch(|a| a.publish_all = true),
            "Forward all ExposedPorts of the image, each from a free port"),
        opt("--share NS", Each(|a, v| listed(v, |w| each(&mut a.share, of(w.as_ref())?))),
            "Share a namespace with the caller: pid, ipc, uts or cgroup"),
        opt("--dns IP", Each(|a, v| each(&mut a.dns, text(v)?)), "Name server"),
        opt("--add-host NAME:IP", Each(|a, v| each(&mut a.add_host, text(v)?)), "A line of /etc/hosts"),
    ]),
    ("Security", &[
        opt("--cap-add CAP", Each(|a, v| listed(v, |w| each(&mut a.cap_add, w))), "Add a capability (or ALL)"),
        opt("--cap-drop CAP", Each(|a, v| listed(v, |w| each(&mut a.cap_drop, w))), "Drop a capability (or ALL)"),
        opt("--seccomp FILE", One(|a, v| one(&mut a.seccomp, v)),
            "System call filter: default, none, or a profile in Docker's JSON"),
        opt("--no-new-privs", Switch(|a| a.no_new_privs = true), "No program gains privileges by being executed"),
        opt("--unmask PATH", Each(|a, v| each(&mut a.unmask, text(v)?)),
            "Leave a masked or read-only path of /proc or /sys open (or ALL)"),
    ]),
    ("Limits", &[
        opt("-m, --memory SIZE", One(|a, v| one(&mut a.memory, text(v)?)), "Memory limit, as 512M"),
        opt("--memory-swap SIZE", Dashed(|a, v| one(&mut a.memory_swap, text(v)?)),
            "Limit of memory and swap together (-1 for none)"),
        opt("--cpus N", One(|a, v| one(&mut a.cpus, text(v)?)), "Processors, as 1.5"),
        opt("--pids-limit N", Dashed(|a, v| one(&mut a.pids_limit, text(v)?)), "Number of processes"),
    ]),
    ("Monitoring", &[
        opt("--status-fd FD", One(|a, v| one(&mut a.status_fd, descriptor(v)?)),
            "Write JSON lines about the container to descriptor FD"),
        opt("--pid-file FILE", One(|a, v| one(&mut a.pid_file, v)),
            "Write the command's pid to FILE, and remove it at the end"),
        opt("--ready-fd FD", One(|a, v| one(&mut a.ready_fd, descriptor(v)?)),
            "Write one line to descriptor FD when the command runs"),
        opt("--block-fd FD", One(|a, v| one(&mut a.block_fd, descriptor(v)?)),
            "Wait for a byte or the end of descriptor FD before the command is run"),
    ]),
    ("Other modes", &[
        opt("--join PID|DIR", One(|a, v| one(&mut a.join, v)),
            "Run the command in a running container: a pid, or a DIR in use"),
        opt("--check", Switch(|a| a.check = true), "Say what this machine can do, and what to do about the rest"),
        opt("--json", Switch(|a| a.json = true), "With --check: as JSON"),
        opt("--dry-run", Switch(|a| a.dry_run = true), "Print what would be done, as JSON, and do nothing"),
        opt("--print-oci", Switch(|a| a.print_oci = true), "Print the equal OCI runtime configuration"),
    ]),
];

/// What goes with `--join`: for the rest, a running container is taken as it is.
pub(crate) const WITH_JOIN: [&str; 20] = [
    "--join",
    "--user",
    "--env",
    "--env-file",
    "--workdir",
    "--ulimit",
    "--umask",
    "--keep-fd",
    "--die-with-parent",
    "--tty",
    "-t",
    "--interactive",
    "--status-fd",
    "--pid-file",
    "--ready-fd",
    "--block-fd",
    "--json",
    "--dry-run",
    "--quiet",
    "--verbose",
];

/// Words with commas between them.
fn listed(value: OsString, mut each: impl FnMut(String) -> Result<(), Wrong>) -> Result<(), Wrong> {
    text(value)?.split(',').try_for_each(|word| each(word.to_owned()))
}

/// `none` forgets the volumes before it, too.
fn volume(args: &mut Args, value: OsString) -> Result<(), Wrong> {
    if value == "none" {
        args.forget_volumes = true;
        args.mounts.retain(|mount| !matches!(mount, MountArg::Volume(_)));
        return Ok(());
    }
    each(&mut args.mounts, MountArg::Volume(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<String> = TOOL.all().filter_map(Opt::long).map(str::to_owned).collect();
        names.extend(TOOL.all().filter_map(Opt::short).map(String::from));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in WITH_JOIN {
            assert!(TOOL.all().any(|option| option.name() == name), "{name}");
        }
    }

    #[test]
    fn what_an_option_takes_has_a_name() {
        for option in TOOL.all() {
            let wanted = match option.set {
                Set::Switch(_) => 0,
                Set::Pair(_) => 2,
                Set::Prints(_) | Set::Refused(_) => continue,
                _ => 1,
            };
            assert_eq!(option.values().count(), wanted, "{}", option.spec);
        }
    }
}
