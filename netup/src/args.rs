//! The command line of d-netup(1), as typed; what it means is [`crate::plan`]'s work.

use std::ffi::OsString;
use std::net::IpAddr;

use d_common::options::value::{descriptor, each, listed, of, one, parsed, text};
use d_common::options::{Operands, Print, Set, Tool, Words, Wrong, opt};

use crate::network::Cidr;

use Set::{Each, One, Prints, Switch, Word};

/// What was typed. [`TOOL`] tells what each is.
#[derive(Debug, Default)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Args {
    pub pid: Option<String>,
    pub command: Vec<OsString>,
    pub publish: Vec<String>,
    pub forward: Option<Forwarder>,
    pub backend: Option<BackendChoice>,
    pub allow_host_loopback: bool,
    pub ipv6: bool,
    pub cidr: Option<Cidr>,
    pub mtu: Option<u32>,
    pub dns: Vec<IpAddr>,
    pub no_dns: bool,
    pub outbound_addr: Option<String>,
    pub ready_fd: Option<i32>,
    pub exit_fd: Option<i32>,
    pub background: bool,
    pub list: bool,
    pub add: Vec<String>,
    pub remove: Vec<u32>,
    pub check: bool,
    pub json: bool,
    pub null: bool,
    pub quiet: bool,
    pub verbose: u8,
}

/// d-netup's command line.
#[rustfmt::skip]
pub const TOOL: Tool<Args> = Tool {
    name: "d-netup",
    version: env!("CARGO_PKG_VERSION"),
    about: "Connect a network namespace through slirp4netns",
    details: "Connects the network namespace of PID and stays until PID ends, or runs CMD in a network namespace of its own. \
              A PID that shares the caller's network stands for the one other network namespace among its descendants.",
    usage: &[
        "d-netup [OPTIONS] PID",
        "d-netup [OPTIONS] -- CMD [ARG...]",
        "d-netup --list [--json] PID",
        "d-netup --add SPEC PID",
        "d-netup --remove ID PID",
        "d-netup --check [--json]",
    ],
    operands: &[
        ("PID", "A process in the network namespace to connect"),
        ("CMD...", "A command to run in a new user and network namespace"),
    ],
    takes: Operands::AndCommand(pid, |a, words| a.command = words),
    options: &[("Options", &[
        opt("-p, --publish SPEC", Each(|a, v| each(&mut a.publish, text(v)?)),
            "Forward a port: [IP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]; on 127.0.0.1 unless IP is given; without HOSTPORT a \
             free one is taken and printed"),
        opt("--forward HOW", Word(listed::<Forwarder>, |a, v| one(&mut a.forward, of(&v)?)),
            "How TCP is forwarded: by slirp4netns, which keeps the client's address, or by d-netup itself, which is faster"),
        opt("--backend NAME", Word(listed::<BackendChoice>, |a, v| one(&mut a.backend, of(&v)?)),
            "The program that moves the packets [default: auto]"),
        opt("--allow-host-loopback", Switch(|a| a.allow_host_loopback = true),
            "Let the namespace reach the host's 127.0.0.1, as the gateway's address"),
        opt("--ipv6", Switch(|a| a.ipv6 = true), "Connect IPv6 too"),
        opt("--cidr NETWORK", One(|a, v| one(&mut a.cidr, parsed(v)?)),
            "The network inside; its address +2 is the gateway, +3 the name server, +100 the namespace \
             [default: 10.0.2.0/24]"),
        opt("--mtu BYTES", One(|a, v| one(&mut a.mtu, parsed(v)?)),
            "The largest packet inside, in bytes [default: 65520]"),
        opt("--dns IP", Each(|a, v| each(&mut a.dns, parsed(v)?)),
            "The name server in CMD's resolv.conf, instead of the built-in one"),
        opt("--no-dns", Switch(|a| a.no_dns = true), "No built-in name server"),
        opt("--outbound-addr ADDR", One(|a, v| one(&mut a.outbound_addr, text(v)?)),
            "The host's address (or interface) that connections leave from"),
        opt("--ready-fd N", One(|a, v| one(&mut a.ready_fd, descriptor(v)?)),
            "Write the line READY=1 to descriptor N when the network is up"),
        opt("--exit-fd N", One(|a, v| one(&mut a.exit_fd, descriptor(v)?)),
            "End when descriptor N is closed at its other end"),
        opt("--background", Switch(|a| a.background = true),
            "Return when the network is up, leave a supervisor, and print its pid"),
        opt("--list", Switch(|a| a.list = true), "Print the forwards of a running d-netup"),
        opt("--add SPEC", Each(|a, v| each(&mut a.add, text(v)?)), "Add forwards to a running d-netup"),
        opt("--remove ID", Each(|a, v| each(&mut a.remove, parsed(v)?)), "Remove a forward from a running d-netup"),
        opt("--check", Switch(|a| a.check = true), "Say what this machine can do, and what to do where it cannot"),
        opt("--json", Switch(|a| a.json = true), "Print results as JSON, one object a line"),
        opt("-0, --null", Switch(|a| a.null = true), "End results with NUL instead of a newline"),
        opt("-q, --quiet", Switch(|a| a.quiet = true), "Print errors only"),
        opt("-v, --verbose...", Switch(|a| a.verbose = a.verbose.saturating_add(1)),
            "Say what is done; twice: each step"),
        opt("-h, --help", Prints(Print::Help), "Print help (-h: a summary)"),
        opt("-V, --version", Prints(Print::Version), "Print version"),
        opt("--completions SHELL", Prints(Print::Completions), ""),
    ])],
    // What goes with what depends on the form of the command: the plan knows.
    excludes: &[],
    closing: "",
};

fn pid(args: &mut Args, word: OsString) -> Result<(), Wrong> {
    match args.pid {
        Some(_) => Err("one process is enough (a command goes after --)".to_owned()),
        None => one(&mut args.pid, text(word)?),
    }
}

/// Who forwards TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarder {
    /// d-netup, through a socket opened inside the namespace.
    Builtin,
    /// slirp4netns.
    Slirp,
}

impl Words for Forwarder {
    const WORDS: &'static [(&'static str, Self)] = &[("builtin", Self::Builtin), ("slirp", Self::Slirp)];

    fn help(self) -> &'static str {
        match self {
            Self::Builtin => "d-netup, through a socket opened inside the namespace",
            Self::Slirp => "slirp4netns",
        }
    }
}

/// Who moves the packets, as the user says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendChoice {
    /// slirp4netns where it is installed, else pasta.
    #[default]
    Auto,
    /// slirp4netns.
    Slirp4netns,
    /// pasta.
    Pasta,
}

impl Words for BackendChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("slirp4netns", Self::Slirp4netns), ("pasta", Self::Pasta)];

    fn help(self) -> &'static str {
        match self {
            Self::Auto => "slirp4netns where it is installed, else pasta",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::DEFAULT_MTU;

    fn parse(line: &str) -> Args {
        TOOL.parse(format!("d-netup {line}").split(' ')).unwrap()
    }

    #[test]
    fn the_help_knows_the_defaults() {
        for text in [TOOL.help(), TOOL.summary()] {
            assert!(text.contains(&format!("[default: {}]", Cidr::default())), "{text}");
            assert!(text.contains(&format!("[default: {DEFAULT_MTU}]")), "{text}");
        }
    }

    #[test]
    fn options_stand_among_the_operands_and_not_in_the_command() {
        let args = parse("-p 80 12 -qp81 --mtu 1500 --mtu=1400 --dns 1.1.1.1 --dns=::1 --backend=pasta");
        assert_eq!((args.pid.as_deref(), args.publish), (Some("12"), ["80", "81"].map(str::to_owned).into()));
        assert_eq!((args.mtu, args.dns.len(), args.backend), (Some(1400), 2, Some(BackendChoice::Pasta)));
        let args = parse("-v -- curl -p x --list -- y");
        assert_eq!((args.verbose, args.list, args.pid), (1, false, None));
        assert_eq!(args.command, ["curl", "-p", "x", "--list", "--", "y"]);
    }

    #[test]
    fn wrong_values() {
        for line in [
            "1 2",
            "--forward x 1",
            "--backend=x 1",
            "--cidr= 1",
            "--mtu x 1",
            "--dns x 1",
            "--ready-fd x 1",
            "--remove -1 1",
            "--dns -- true",
            "-5",
            "--lis 1",
        ] {
            assert!(TOOL.parse(format!("d-netup {line}").split(' ')).is_err(), "{line}");
        }
    }
}
