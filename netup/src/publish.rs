//! The grammar of `-p`: `[IP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp]`, docker's, but that an address left out is 127.0.0.1.
//!
//! A specification expands to one [`Publish`] a port. A host port left out (`80`, `:80`, `IP::80`) means a free one, which
//! the kernel chooses when the port is opened. Pure: nothing here looks at the machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// So many ports may be forwarded at once: each costs a socket, and a line of `--list`.
pub const MAX_FORWARDS: usize = 1024;

/// The transport of a forward.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of the host that is to lead to one port inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish {
    /// The transport.
    pub proto: Proto,
    /// The host's address that is listened on.
    pub address: IpAddr,
    /// The host's port; `None` for a free one.
    pub host_port: Option<u16>,
    /// The port inside.
    pub port: u16,
}

impl Publish {
    /// Where the host listens; port 0 asks the kernel for a free one.
    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host_port.unwrap_or(0))
    }
}

/// Reads the specifications of one command line; two of them may not want the same port.
///
/// # Errors
/// One sentence that quotes the specification, and says what is wrong with it.
pub fn parse_all<S: AsRef<str>>(specs: &[S]) -> Result<Vec<Publish>, String> {
    let mut all: Vec<Publish> = Vec::new();
    for spec in specs {
        let spec = spec.as_ref();
        for publish in parse(spec)? {
            if all.iter().any(|other| clash(other, &publish)) {
                return Err(format!("-p {spec:?}: {}/{} is published twice", publish.host(), publish.proto));
            }
            all.push(publish);
        }
        if all.len() > MAX_FORWARDS {
            return Err(format!("-p {spec:?}: more than {MAX_FORWARDS} ports"));
        }
    }
    Ok(all)
}

/// Whether both want one port of one address; the unspecified address is all of them.
fn clash(a: &Publish, b: &Publish) -> bool {
    let family = a.address.is_ipv4() == b.address.is_ipv4();
    let address = a.address == b.address || a.address.is_unspecified() || b.address.is_unspecified();
    a.proto == b.proto && a.host_port.is_some() && a.host_port == b.host_port && family && address
}

/// Reads one specification.
///
/// # Errors
/// As [`parse_all`].
pub fn parse(spec: &str) -> Result<Vec<Publish>, String> {
    expand(spec).map_err(|why| format!("-p {spec:?}: {why}"))
}

fn expand(spec: &str) -> Result<Vec<Publish>, String> {
    if spec.is_empty() {
        return Err("it is empty: expected [IP:][HOSTPORT:]PORT[/udp]".to_owned());
    }
    let (rest, proto) = match spec.split_once('/') {
        None => (spec, Proto::Tcp),
        Some((rest, word)) if word.eq_ignore_ascii_case("tcp") => (rest, Proto::Tcp),
        Some((rest, word)) if word.eq_ignore_ascii_case("udp") => (rest, Proto::Udp),
        Some((_, word)) => return Err(format!("{word:?} is no protocol that can be forwarded: expected tcp or udp")),
    };
    let (address, ports) = split_address(rest)?;
    let (host, inside) = match ports.rsplit_once(':') {
        Some((host, inside)) => (host, inside),
        None => ("", ports),
    };
    if host.contains(['.', '[']) && !host.contains(':') {
        return Err(format!("{host:?} is an address, not a port: write {host}::{inside} for a free host port"));
    }
    let (first, last) = range(inside)?;
    let count = last - first;
    let first_host = if host.is_empty() { None } else { Some(range(host)?) };
    if let Some((start, end)) = first_host
        && end - start != count
    {
        return Err(format!(
            "{} host ports for {} ports: both ranges must be of one length",
            u32::from(end - start) + 1,
            u32::from(count) + 1
        ));
    }
    let publish = |i| Publish { proto, address, host_port: first_host.map(|(start, _)| start + i), port: first + i };
    Ok((0..=count).map(publish).collect())
}

/// Takes the address off the front: what stands before the last two fields, or in brackets.
fn split_address(rest: &str) -> Result<(IpAddr, &str), String> {
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (address, ports) = bracketed.split_once("]:").ok_or("expected [IPV6]:HOSTPORT:PORT")?;
        let address: Ipv6Addr = address.parse().map_err(|_| format!("{address:?} is not an IPv6 address"))?;
        if !ports.contains(':') {
            return Err(format!("behind an address two ports are expected: [{address}]::{ports} for a free host port"));
        }
        return Ok((address.into(), ports));
    }
    let fields: Vec<&str> = rest.split(':').collect();
    match fields.as_slice() {
        [_] | [_, _] => Ok((Ipv4Addr::LOCALHOST.into(), rest)),
        [address, _, _] => {
            let parsed: Result<Ipv4Addr, _> = address.parse();
            let parsed = parsed.map_err(|_| format!("{address:?} is not an IPv4 address"))?;
            Ok((parsed.into(), &rest[address.len() + 1..]))
        }
        _ => Err("too many colons: expected [IP:][HOSTPORT:]PORT, an IPv6 address in brackets".to_owned()),
    }
}

/// `PORT` or `PORT-END`.
fn range(text: &str) -> Result<(u16, u16), String> {
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok((port, port));
    };
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(format!("the range {text} runs backwards"));
    }
    Ok((first, last))
}

fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Err("a port is missing".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a port number"));
    }
    match text.parse() {
        Ok(0) => Err("0 is no port: leave the host port out for a free one".to_owned()),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("{text} is no port: the highest is 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(spec: &str) -> String {
        match parse(spec) {
            Ok(list) => {
                let line = |p: &Publish| format!("{}/{}>{}", p.host(), p.proto, p.port);
                list.iter().map(line).collect::<Vec<_>>().join(" ")
            }
            Err(why) => why,
        }
    }

    #[test]
    fn every_form() {
        for (spec, expected) in [
            ("80", "127.0.0.1:0/tcp>80"),
            (":80", "127.0.0.1:0/tcp>80"),
            ("8080:80", "127.0.0.1:8080/tcp>80"),
            ("8080:80/tcp", "127.0.0.1:8080/tcp>80"),
            ("53:5353/udp", "127.0.0.1:53/udp>5353"),
            ("53:53/UDP", "127.0.0.1:53/udp>53"),
            ("10.1.2.3::80", "10.1.2.3:0/tcp>80"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080/tcp>80"),
            ("[::1]:8080:80", "[::1]:8080/tcp>80"),
            ("[::]::80/udp", "[::]:0/udp>80"),
            ("8000-8002:80-82", "127.0.0.1:8000/tcp>80 127.0.0.1:8001/tcp>81 127.0.0.1:8002/tcp>82"),
            ("127.0.0.2:8000-8001:8000-8001/udp", "127.0.0.2:8000/udp>8000 127.0.0.2:8001/udp>8001"),
            ("80-81", "127.0.0.1:0/tcp>80 127.0.0.1:0/tcp>81"),
            ("65535:65535", "127.0.0.1:65535/tcp>65535"),
        ] {
            assert_eq!(show(spec), expected, "{spec}");
        }
    }

    #[test]
    fn every_mistake_has_its_own_sentence() {
        for (spec, part) in [
            ("", "it is empty"),
            ("/udp", "a port is missing"),
            ("8080:", "a port is missing"),
            ("0", "0 is no port"),
            ("0:80", "0 is no port"),
            ("70000", "70000 is no port: the highest is 65535"),
            ("80:99999999999", "the highest is 65535"),
            ("a:b", "\"b\" is not a port number"),
            ("a:b:c", "\"a\" is not an IPv4 address"),
            ("localhost:80:80", "\"localhost\" is not an IPv4 address"),
            ("1.2.3:80:80", "\"1.2.3\" is not an IPv4 address"),
            ("127.0.0.1:80", "write 127.0.0.1::80"),
            ("1:2:3:4", "too many colons"),
            ("::1:80:80", "in brackets"),
            ("[::1]", "expected [IPV6]:HOSTPORT:PORT"),
            ("[::1]:80", "[::1]::80"),
            ("[zz]:1:1", "\"zz\" is not an IPv6 address"),
            ("80/sctp", "\"sctp\" is no protocol"),
            ("80/", "\"\" is no protocol"),
            ("+80:80", "\"+80\" is not a port number"),
            (" 80:80", "\" 80\" is not a port number"),
            ("82-80", "runs backwards"),
            ("80-", "a port is missing"),
            ("8000-8002:80-81", "3 host ports for 2 ports"),
            ("8000-8002:80", "3 host ports for 1 ports"),
            ("8000:80-81", "1 host ports for 2 ports"),
        ] {
            assert!(show(spec).contains(part), "{spec:?}: {}", show(spec));
            assert!(show(spec).starts_with(&format!("-p {spec:?}: ")), "{spec:?}: {}", show(spec));
        }
    }

    #[test]
    fn one_port_is_published_once() {
        let twice = |a: &str, b: &str| parse_all(&[a, b]).is_err_and(|e| e.contains("published twice"));
        assert!(twice("8080:80", "8080:81"));
        assert!(twice("8080:80", "0.0.0.0:8080:80"));
        assert!(twice("8000-8010:8000-8010", "8005:1"));
        assert!(!twice("8080:80", "8080:80/udp"));
        assert!(!twice("8080:80", "127.0.0.2:8080:80"));
        assert!(!twice("80", "80"));
        assert!(!twice("0.0.0.0:8080:80", "[::]:8080:80"));
    }

    #[test]
    fn the_number_of_ports_is_bounded() {
        assert!(parse_all(&["1-1024"]).is_ok());
        assert!(parse_all(&["1-65535:1-65535"]).is_err());
    }
}
