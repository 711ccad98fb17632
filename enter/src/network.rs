//! The network: what `--net`, `--dns`, `--add-host` mean, and the files under /etc that follow from it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use d_common::idmap::Extent;
use serde::Serialize;

/// Where the container's network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    /// A namespace with nothing but `lo`.
    None,
    /// A namespace connected by d-netup, with its options.
    User(Vec<String>),
    /// The caller's.
    Host,
    /// The namespace behind a path.
    Ns(PathBuf),
}

/// The options of d-netup that say what a network is like. The others are about d-netup itself, which is d-enter's to say.
const OPTIONS: [&str; 10] =
    ["allow-host-loopback", "backend", "cidr", "dns", "forward", "ipv6", "mtu", "no-dns", "outbound-addr", "publish"];

/// The network in which slirp4netns puts its guest, unless `cidr` says else (slirp4netns(1)).
const DEFAULT_CIDR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);

impl Net {
    /// `none`, `user[:OPT[=VALUE],...]`, `host` or `ns:PATH`.
    ///
    /// # Errors
    /// [`Exit::Enter`].
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest))) {
            ("none", None) => Ok(Self::None),
            ("host", None) => Ok(Self::Host),
            ("ns", Some(path)) if !path.is_empty() => Ok(Self::Ns(path.into())),
            ("user", options) => {
                let words = options.unwrap_or("").split(',').filter(|o| !o.is_empty());
                let name = |o: &str| o.split('=').next().unwrap_or(o).to_owned();
                if let Some(other) = words.clone().find(|o| !OPTIONS.contains(&name(o).as_str())) {
                    fail!(
                        Exit::Enter,
                        "--net user: {:?} is no option of a network: there are {}",
                        name(other),
                        OPTIONS.join(", ")
                    );
                }
                Ok(Self::User(words.map(|o| format!("--{o}")).collect()))
            }
            _ => fail!(
                Exit::Enter,
                "cannot read --net {text:?}: expected none, user[:OPTION=VALUE,...], host or ns:PATH"
            ),
        }
    }

    /// Whether the container has a network namespace that d-enter makes.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::None | Self::User(_))
    }

    /// The name servers that its options name.
    pub fn dns(&self) -> Vec<String> {
        let Self::User(options) = self else { return Vec::new() };
        options.iter().filter_map(|o| o.strip_prefix("--dns=")).map(str::to_owned).collect()
    }

    /// The address at `offset` of the guest's network: 2 the gateway, 3 the name server, 100 the guest itself.
    fn address(&self, offset: u8) -> Ipv4Addr {
        let cidr = match self {
            Self::User(options) => options.iter().find_map(|o| o.strip_prefix("--cidr=")),
            _ => None,
        };
        let network = cidr.and_then(|c| c.split('/').next()).and_then(|a| a.parse().ok()).unwrap_or(DEFAULT_CIDR);
        Ipv4Addr::from(u32::from(network) + u32::from(offset))
    }
}

/// The inside groups that may ping(8) without privilege, as `net.ipv4.ping_group_range` takes them: all that are mapped. The
/// kernel compares the groups as they are outside, so a map that is not in the same order there has only the extent of `gid`.
pub fn ping_groups(map: &[Extent], gid: u32) -> Option<String> {
    let last = |e: &Extent| (e.inside + (e.count - 1), e.outside + (e.count - 1));
    let low = map.iter().min_by_key(|e| e.inside)?;
    let high = map.iter().max_by_key(|e| e.inside)?;
    let ordered = map.iter().all(|e| e.outside >= low.outside && last(e).1 <= last(high).1);
    let own = map.iter().find(|e| (e.inside..=last(e).0).contains(&gid))?;
    let (first, end) = if ordered { (low.inside, last(high).0) } else { (own.inside, last(own).0) };
    Some(format!("{first} {end}"))
}

/// The text of /etc/resolv.conf; `None` leaves the image's. `host` is the text of the caller's own.
pub fn resolv_conf(net: &Net, dns: &[String], host: &str) -> Option<String> {
    let servers: Vec<String> = match net {
        _ if !dns.is_empty() => dns.to_vec(),
        Net::Host | Net::Ns(_) => return Some(host.to_owned()),
        Net::User(options) if options.iter().any(|o| o == "--no-dns") => Vec::new(),
        // Whatever the host's resolver is (a stub on 127.0.0.53, say), slirp4netns asks it from outside.
        Net::User(_) => vec![net.address(3).to_string()],
        Net::None => return None,
    };
    let kept =
        host.lines().filter(|l| l.starts_with("search ") || l.starts_with("options ") || l.starts_with("domain "));
    let lines = servers.iter().map(|s| format!("nameserver {s}")).chain(kept.map(str::to_owned));
    Some(lines.fold(String::new(), |text, line| text + &line + "\n"))
}

/// The text of /etc/hosts. `host` is the text of the caller's own, which counts with the caller's network only.
///
/// # Errors
/// [`Exit::Enter`] for a malformed `--add-host`.
pub fn hosts(net: &Net, hostname: &str, add: &[String], host: &str) -> Result<String> {
    let mut text = match net {
        Net::Host => format!("{}\n", host.trim_end()),
        _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
    };
    let own = match net {
        Net::User(_) => net.address(100),
        _ => Ipv4Addr::new(127, 0, 1, 1),
    };
    if !text.lines().any(|l| l.split_whitespace().skip(1).any(|name| name == hostname)) {
        text += &format!("{own}\t{hostname}\n");
    }
    for spec in add {
        let parsed = spec.split_once(['=', ':']).and_then(|(name, address)| {
            let address = match address {
                "host-gateway" => IpAddr::V4(net.address(2)),
                _ => address.trim_matches(['[', ']']).parse().ok()?,
            };
            (!name.is_empty() && !name.contains(char::is_whitespace)).then_some((name, address))
        });
        match parsed {
            Some((name, address)) => text += &format!("{address}\t{name}\n"),
            None => fail!(Exit::Enter, "cannot read --add-host {spec:?}: expected NAME:IP"),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        assert_eq!(Net::parse("none").unwrap(), Net::None);
        assert_eq!(Net::parse("user").unwrap(), Net::User(vec![]));
        let user = Net::parse("user:mtu=1500,ipv6,cidr=10.9.0.0/24").unwrap();
        assert_eq!(user, Net::User(vec!["--mtu=1500".into(), "--ipv6".into(), "--cidr=10.9.0.0/24".into()]));
        assert_eq!(user.address(3), Ipv4Addr::new(10, 9, 0, 3));
        assert_eq!(Net::parse("ns:/run/netns/x").unwrap(), Net::Ns("/run/netns/x".into()));
        assert_eq!(Net::parse("user:dns=9.9.9.9,dns=::1").unwrap().dns(), ["9.9.9.9", "::1"]);
        for bad in ["", "bridge", "none:x", "ns:", "ns", "host:1", "user:verbose", "user:ready-fd=1", "user:help,ipv6"]
        {
            assert!(Net::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_that_may_ping() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(ping_groups(&[extent(33, 1000, 1)], 33).unwrap(), "33 33");
        let subid = [extent(0, 1000, 1), extent(1, 100_000, 65_536)];
        assert_eq!(ping_groups(&subid, 33).unwrap(), "0 65536");
        let mine_above = [extent(0, 500_000, 1), extent(1, 100_000, 65_536)];
        assert_eq!(ping_groups(&mine_above, 33).unwrap(), "1 65536");
        assert_eq!(ping_groups(&mine_above, 0).unwrap(), "0 0");
    }

    #[test]
    fn resolvers() {
        let host = "# x\nnameserver 127.0.0.53\nsearch lan\noptions edns0\n";
        let user = Net::User(vec![]);
        assert_eq!(resolv_conf(&user, &[], host).unwrap(), "nameserver 10.0.2.3\nsearch lan\noptions edns0\n");
        let none = Net::User(vec!["--no-dns".into()]);
        assert_eq!(resolv_conf(&none, &[], host).unwrap(), "search lan\noptions edns0\n");
        assert_eq!(resolv_conf(&none, &["1.1.1.1".into()], "").unwrap(), "nameserver 1.1.1.1\n");
        assert_eq!(resolv_conf(&Net::None, &[], host), None);
        assert_eq!(resolv_conf(&Net::Host, &[], host).unwrap(), host);
        assert!(resolv_conf(&Net::None, &["1.1.1.1".into()], host).unwrap().starts_with("nameserver 1.1.1.1\n"));
    }

    #[test]
    fn host_names() {
        let text = hosts(&Net::User(vec![]), "box", &["a:1.2.3.4".into(), "b=::1".into(), "g:host-gateway".into()], "");
        let text = text.unwrap();
        for line in ["127.0.0.1\tlocalhost", "10.0.2.100\tbox", "1.2.3.4\ta", "::1\tb", "10.0.2.2\tg"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(hosts(&Net::None, "box", &["a".into()], "").is_err());
        assert!(hosts(&Net::Host, "me", &[], "127.0.0.1 localhost me\n").unwrap().lines().count() == 1);
    }
}
