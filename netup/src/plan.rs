//! What a command line means: a pure function from [`Args`] to a [`Plan`]. After it no option is looked at again.

use std::ffi::OsString;
use std::net::IpAddr;

use d_common::report::printable;
use rustix::process::Pid;

use crate::args::{Args, BackendChoice, Forwarder};
use crate::network::{Cidr, DEFAULT_MTU, MIN_MTU_IPV6, MTUS};
use crate::publish::{Publish, parse_all};
use crate::resolv::MAX_SERVERS;

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    /// Connect the network of a process.
    Connect {
        /// The process.
        pid: Pid,
        /// The network.
        session: Session,
        /// Leave a supervisor and return.
        background: bool,
    },
    /// Run a command in a network of its own.
    Run {
        /// The command and its arguments.
        command: Vec<OsString>,
        /// The network.
        session: Session,
        /// The name servers of its resolv.conf; none for the built-in one.
        dns: Vec<IpAddr>,
    },
    /// Ask a running d-netup.
    Ask {
        /// The process that it serves.
        pid: Pid,
        /// What for.
        request: Request,
        /// How its answer is printed.
        style: Style,
    },
    /// Say what this machine can do.
    Check {
        /// As JSON.
        json: bool,
    },
}

/// A network and how it is told to others.
#[derive(Debug)]
pub struct Session {
    /// The network inside.
    pub network: Network,
    /// Who moves the packets.
    pub backend: BackendChoice,
    /// Who forwards TCP, where the user says so.
    pub forwarder: Option<Forwarder>,
    /// The ports of the host that lead inside.
    pub publish: Vec<Publish>,
    /// Gets one line when the network is up.
    pub ready_fd: Option<i32>,
    /// Ends the network when its other end is closed.
    pub exit_fd: Option<i32>,
    /// How chosen ports are printed.
    pub style: Style,
}

/// The network inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// Its addresses.
    pub cidr: Cidr,
    /// Its largest packet in bytes.
    pub mtu: u32,
    /// IPv6 too.
    pub ipv6: bool,
    /// The host's 127.0.0.1 is reached at the gateway's address.
    pub host_loopback: bool,
    /// There is a name server.
    pub dns: bool,
    /// The host's address or interface that connections leave from.
    pub outbound: Option<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self { cidr: Cidr::default(), mtu: DEFAULT_MTU, ipv6: false, host_loopback: false, dns: true, outbound: None }
    }
}

/// What a running d-netup is asked for.
#[derive(Debug)]
pub enum Request {
    /// Its forwards.
    List,
    /// More of them.
    Add(Vec<String>),
    /// Fewer.
    Remove(Vec<u32>),
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Fields, a line each.
    Lines,
    /// Fields, each record ended by NUL.
    Null,
    /// JSON lines.
    Json,
}

/// Decides.
///
/// # Errors
/// The sentence of a usage error.
pub fn plan(args: Args) -> Result<Plan, String> {
    let style = match (args.json, args.null) {
        (true, true) => return Err("--json and -0 exclude each other".to_owned()),
        (true, _) => Style::Json,
        (_, true) => Style::Null,
        _ => Style::Lines,
    };
    let questions = [args.list, !args.add.is_empty(), !args.remove.is_empty(), args.check];
    if questions.iter().filter(|asked| **asked).count() > 1 {
        return Err("--list, --add, --remove and --check exclude each other".to_owned());
    }
    if questions.contains(&true) {
        if !args.command.is_empty() {
            return Err("--list, --add, --remove and --check run no command".to_owned());
        }
        if !args.publish.is_empty() {
            return Err("-p opens forwards of a new network; --add SPEC adds them to a running d-netup".to_owned());
        }
        if args.check {
            return Ok(Plan::Check { json: args.json });
        }
        let request = match (args.list, args.remove.is_empty()) {
            (true, _) => Request::List,
            (_, false) => Request::Remove(args.remove),
            _ => {
                parse_all(&args.add).map_err(|why| why.replacen("-p ", "--add ", 1))?;
                Request::Add(args.add)
            }
        };
        return Ok(Plan::Ask { pid: pid(args.pid.as_deref())?, request, style });
    }
    connect(args, style)
}

fn connect(args: Args, style: Style) -> Result<Plan, String> {
    if args.dns.len() > MAX_SERVERS {
        return Err(format!("--dns: {} name servers, resolv.conf(5) has room for {MAX_SERVERS}", args.dns.len()));
    }
    let session = Session {
        publish: parse_all(&args.publish)?,
        network: network(&args)?,
        backend: args.backend.unwrap_or_default(),
        forwarder: args.forward,
        ready_fd: descriptor("--ready-fd", args.ready_fd)?,
        exit_fd: descriptor("--exit-fd", args.exit_fd)?,
        style,
    };
    if session.ready_fd.is_some() && session.ready_fd == session.exit_fd {
        return Err("--ready-fd and --exit-fd name the same descriptor".to_owned());
    }
    if args.backend == Some(BackendChoice::Pasta) && args.forward == Some(Forwarder::Slirp) {
        return Err("--forward slirp needs slirp4netns: leave it out with --backend pasta".to_owned());
    }
    if args.command.is_empty() {
        let pid = pid(args.pid.as_deref())?;
        return Ok(Plan::Connect { pid, session, background: args.background });
    }
    if let Some(pid) = &args.pid {
        return Err(format!("{:?} before --: give a PID or a command, not both", printable(pid)));
    }
    if args.background {
        return Err(
            "--background is for PID: a command is waited for (run d-netup itself in the background)".to_owned()
        );
    }
    if args.command.first().is_some_and(|c| c.is_empty()) {
        return Err("CMD is empty: the command that should print it failed".to_owned());
    }
    Ok(Plan::Run { command: args.command, session, dns: args.dns })
}

fn network(args: &Args) -> Result<Network, String> {
    let mtu = args.mtu.unwrap_or(DEFAULT_MTU);
    if !MTUS.contains(&mtu) {
        return Err(format!("--mtu {mtu}: it must be {} to {}", MTUS.start(), MTUS.end()));
    }
    if args.ipv6 && mtu < MIN_MTU_IPV6 {
        return Err(format!("--mtu {mtu}: IPv6 needs {MIN_MTU_IPV6} at least"));
    }
    if args.outbound_addr.as_deref() == Some("") {
        return Err("--outbound-addr is empty: the command that should print it failed".to_owned());
    }
    Ok(Network {
        cidr: args.cidr.unwrap_or_default(),
        mtu,
        ipv6: args.ipv6,
        host_loopback: args.allow_host_loopback,
        dns: !args.no_dns,
        outbound: args.outbound_addr.clone(),
    })
}

fn descriptor(option: &str, number: Option<i32>) -> Result<Option<i32>, String> {
    match number {
        Some(n) if n < 0 => Err(format!("{option} {n}: it is not a descriptor")),
        number => Ok(number),
    }
}

fn pid(operand: Option<&str>) -> Result<Pid, String> {
    let text = operand.ok_or("PID is missing: give a process, or a command after --")?;
    if text.is_empty() {
        return Err("PID is empty: the command that should print it failed".to_owned());
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let pid = text.parse().ok().filter(|_| digits).and_then(Pid::from_raw);
    pid.ok_or_else(|| format!("{text:?} is not a process id (a command goes after --)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::TOOL;
    use d_common::options::Outcome;

    fn plan_of(line: &str) -> Result<Plan, String> {
        let args = line.split(' ').filter(|w| !w.is_empty()).map(|w| if w == "''" { "" } else { w });
        match TOOL.parse(["d-netup"].into_iter().chain(args)) {
            Ok(args) => plan(args),
            Err(Outcome::Usage(why)) => Err(why),
            Err(Outcome::Print(_)) => panic!("{line} prints"),
        }
    }

    #[test]
    fn forms_of_the_command() {
        assert!(matches!(plan_of("-p 80 12"), Ok(Plan::Connect { background: false, .. })));
        assert!(matches!(plan_of("12 --background"), Ok(Plan::Connect { background: true, .. })));
        assert!(matches!(plan_of("--dns 9.9.9.9 12"), Ok(Plan::Connect { .. })));
        assert!(matches!(plan_of("--list 12 --json"), Ok(Plan::Ask { style: Style::Json, .. })));
        assert!(
            matches!(plan_of("--add 80 --add 81 12"), Ok(Plan::Ask { request: Request::Add(s), .. }) if s.len() == 2)
        );
        assert!(matches!(plan_of("12 --remove 3"), Ok(Plan::Ask { request: Request::Remove(_), .. })));
        assert!(matches!(plan_of("--check"), Ok(Plan::Check { json: false })));
        match plan_of("-p 80 -- curl -p x --list").unwrap() {
            Plan::Run { command, .. } => assert_eq!(command, ["curl", "-p", "x", "--list"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn usage_errors() {
        for (line, part) in [
            ("", "PID is missing"),
            ("''", "PID is empty: the command that should print it failed"),
            ("x", "\"x\" is not a process id"),
            ("0", "not a process id"),
            ("+5", "not a process id"),
            ("12 -- true", "not both"),
            ("--background -- true", "--background is for PID"),
            ("-- ''", "CMD is empty"),
            ("--list --check 1", "exclude each other"),
            ("--list --add 80 1", "exclude each other"),
            ("--json -0 --list 1", "exclude each other"),
            ("--list -p 80 1", "--add SPEC adds them"),
            ("--dns 1.1.1.1 --dns ::2 --dns ::3 --dns ::4 -- true", "--dns: 4 name servers"),
            ("--add 0 1", "--add \"0\": 0 is no port"),
            ("-p a:b:c 1", "\"a\" is not an IPv4 address"),
            ("--mtu 67 1", "--mtu 67"),
            ("--mtu 65522 1", "--mtu 65522"),
            ("--mtu 1279 --ipv6 1", "IPv6 needs 1280"),
            ("--cidr 10.0.2.0/26 1", "1 to 25"),
            ("--ready-fd 3 --exit-fd 3 1", "same descriptor"),
            ("--backend pasta --forward slirp 1", "needs slirp4netns"),
            ("--lis 1", "there is no option --lis"),
        ] {
            let why = plan_of(line).unwrap_err();
            assert!(why.contains(part), "{line}: {why}");
        }
    }
}
