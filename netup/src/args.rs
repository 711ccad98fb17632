//! The command line, as clap reads it; what it means is [`crate::plan`]'s work.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::Shell;
use d_common::exit::{Exit, failure};
use d_common::output;
use d_common::report::usage_line;

use crate::network::Cidr;

/// Connect a network namespace through slirp4netns.
///
/// Connects the network namespace of PID and stays until PID ends, or runs CMD in a network namespace of its own. A PID that
/// shares the caller's network stands for the one other network namespace among its descendants.
#[derive(Parser, Debug)]
#[command(name = "d-netup", version, max_term_width = 100, infer_long_args = false, args_override_self = true)]
#[command(override_usage = "d-netup [OPTIONS] PID\n       d-netup [OPTIONS] -- CMD [ARG...]\n       \
    d-netup --list [--json] PID\n       d-netup --add SPEC PID\n       d-netup --remove ID PID\n       \
    d-netup --check [--json]")]
pub struct Args {
    /// A process in the network namespace to connect
    #[arg(value_name = "PID")]
    pub pid: Option<String>,

    /// A command to run in a new user and network namespace
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,

    /// Forward a port: [IP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]; on 127.0.0.1 unless IP is given; without HOSTPORT a free
    /// one is taken and printed
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,

    /// How TCP is forwarded: by slirp4netns, which keeps the client's address, or by d-netup itself, which is faster
    #[arg(long, value_enum, value_name = "HOW")]
    pub forward: Option<Forwarder>,

    /// The program that moves the packets
    #[arg(long, value_enum, value_name = "NAME", default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Let the namespace reach the host's 127.0.0.1, as the gateway's address
    #[arg(long)]
    pub allow_host_loopback: bool,

    /// Connect IPv6 too
    #[arg(long)]
    pub ipv6: bool,

    /// The network inside; its address +2 is the gateway, +3 the name server, +100 the namespace
    #[arg(long, value_name = "NETWORK", default_value_t)]
    pub cidr: Cidr,

    /// The largest packet inside, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = crate::network::DEFAULT_MTU)]
    pub mtu: u32,

    /// The name server in CMD's resolv.conf, instead of the built-in one
    #[arg(long, value_name = "IP")]
    pub dns: Vec<IpAddr>,

    /// No built-in name server
    #[arg(long)]
    pub no_dns: bool,

    /// The host's address (or interface) that connections leave from
    #[arg(long, value_name = "ADDR")]
    pub outbound_addr: Option<String>,

    /// Write the line READY=1 to descriptor N when the network is up
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,

    /// End when descriptor N is closed at its other end
    #[arg(long, value_name = "N")]
    pub exit_fd: Option<i32>,

    /// Return when the network is up, leave a supervisor, and print its pid
    #[arg(long)]
    pub background: bool,

    /// Print the forwards of a running d-netup
    #[arg(long)]
    pub list: bool,

    /// Add forwards to a running d-netup
    #[arg(long, value_name = "SPEC")]
    pub add: Vec<String>,

    /// Remove a forward from a running d-netup
    #[arg(long, value_name = "ID")]
    pub remove: Vec<u32>,

    /// Say what this machine can do, and what to do where it cannot
    #[arg(long)]
    pub check: bool,

    /// Print results as JSON, one object a line
    #[arg(long)]
    pub json: bool,

    /// End results with NUL instead of a newline
    #[arg(short = '0', long)]
    pub null: bool,

    /// Print errors only
    #[arg(short, long)]
    pub quiet: bool,

    /// Say what is done; twice: each step
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Print a completion script
    #[arg(long, value_name = "SHELL", hide = true)]
    pub completions: Option<Shell>,
}

/// Who forwards TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Forwarder {
    /// d-netup, through a socket opened inside the namespace.
    Builtin,
    /// slirp4netns.
    Slirp,
}

/// Who moves the packets, as the user says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BackendChoice {
    /// slirp4netns where it is installed, else pasta
    Auto,
    /// slirp4netns
    Slirp4netns,
    /// pasta
    Pasta,
}

/// What became of the command line.
#[derive(Debug)]
pub enum Parsed {
    /// There is work to do.
    Args(Box<Args>),
    /// `--help`, `--version` or a completion script was printed.
    Printed,
    /// It is wrong, or that could not be printed.
    Wrong(anyhow::Error),
}

/// Reads the command line.
pub fn parse(argv: &[OsString]) -> Parsed {
    let printed = |result: anyhow::Result<()>| result.map_or_else(Parsed::Wrong, |()| Parsed::Printed);
    match Args::try_parse_from(argv) {
        Ok(args) => match args.completions {
            Some(shell) => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Args::command(), "d-netup", &mut script);
                printed(output::print(&script))
            }
            None => Parsed::Args(Box::new(args)),
        },
        Err(e) if !e.use_stderr() => printed(output::printed(e.print())),
        Err(e) => Parsed::Wrong(failure(Exit::Usage, usage_line(&e.to_string(), "d-netup"))),
    }
}
