//! The list of `--publish`: of several forwards of one port of the host the last is used. What else a specification says is
//! d-netup's to read, and to refuse.

use std::net::IpAddr;

/// A forward from ports of the host that it names.
#[derive(Debug, PartialEq, Eq)]
struct Forward<'a> {
    address: &'a str,
    host: (u16, u16),
    inside: u16,
    protocol: &'a str,
}

impl<'a> Forward<'a> {
    /// `None` where d-netup finds a free port, and for what cannot be read.
    fn parse(spec: &'a str) -> Option<Self> {
        let (ports, protocol) = spec.rsplit_once('/').unwrap_or((spec, "tcp"));
        let (host, inside) = ports.rsplit_once(':')?;
        let (address, host) = host.rsplit_once(':').unwrap_or(("127.0.0.1", host));
        let (host, (inside, end)) = (range(host)?, range(inside)?);
        (host.1 - host.0 == end - inside).then_some(Self { address, host, inside, protocol })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.address.trim_matches(['[', ']']).parse().ok()
    }

    /// Whether it takes this port of the host on one of the addresses of `other`; the unspecified address is all of them.
    fn takes(&self, port: u16, other: &Self) -> bool {
        let same_address = match (self.ip(), other.ip()) {
            (Some(a), Some(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified()),
            _ => false,
        };
        same_address
            && self.protocol.eq_ignore_ascii_case(other.protocol)
            && (self.host.0..=self.host.1).contains(&port)
    }
}

/// `PORT` or `PORT-END`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// The list without what comes again later: of a range, what is left of it.
pub fn later_wins(specs: &[String]) -> Vec<String> {
    let forwards: Vec<Option<Forward<'_>>> = specs.iter().map(|spec| Forward::parse(spec)).collect();
    let mut list = Vec::new();
    for (i, (spec, forward)) in specs.iter().zip(&forwards).enumerate() {
        let Some(forward) = forward else {
            list.push(spec.clone());
            continue;
        };
        let is_left = |port: &u16| !forwards[i + 1..].iter().flatten().any(|later| later.takes(*port, forward));
        let (first, last) = forward.host;
        let left: Vec<u16> = (first..=last).filter(is_left).collect();
        if left.len() == usize::from(last - first) + 1 {
            list.push(spec.clone());
        } else {
            let Forward { address, inside, protocol, .. } = forward;
            list.extend(left.iter().map(|port| format!("{address}:{port}:{}/{protocol}", inside + (port - first))));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_one_has_the_port() {
        let of = |specs: &str| later_wins(&specs.split(' ').map(str::to_owned).collect::<Vec<_>>()).join(" ");
        for (specs, left) in [
            ("8080:80 8080:81", "8080:81"),
            ("8080:80 127.0.0.1:8080:81/TCP", "127.0.0.1:8080:81/TCP"),
            ("8080:80 0.0.0.0:8080:81", "0.0.0.0:8080:81"),
            ("0.0.0.0:8080:80 8080:81", "8080:81"),
            ("[::]:8080:80 [::1]:8080:81", "[::1]:8080:81"),
            ("8170-8172:80-82 8171:99", "127.0.0.1:8170:80/tcp 127.0.0.1:8172:82/tcp 8171:99"),
            ("8171:99 8170-8172:80-82", "8170-8172:80-82"),
            // Different ports, or nothing that is known to be one.
            ("8080:80 8080:80/udp", "8080:80 8080:80/udp"),
            ("8080:80 127.0.0.2:8080:80", "8080:80 127.0.0.2:8080:80"),
            ("8080:80 [::]:8080:80", "8080:80 [::]:8080:80"),
            ("80 80 :80 0.0.0.0::80", "80 80 :80 0.0.0.0::80"),
            ("1-2:1 1-2:1 x:1", "1-2:1 1-2:1 x:1"),
        ] {
            assert_eq!(of(specs), left, "{specs}");
        }
    }
}
