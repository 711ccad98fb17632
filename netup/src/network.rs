//! The addresses inside, all computed from one CIDR as slirp4netns(1) does: gateway +2, name server +3, the namespace +100;
//! and the device, whose name must be free.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use rustix::net::netdevice::name_to_index;
use rustix::process::Pid;

/// The tap device that carries the network.
pub const DEVICE: &str = "tap0";
/// How long a device of that name is waited for to go: when a d-netup was killed, its helper still has it for a moment.
const DEVICE_PATIENCE: Duration = Duration::from_secs(2);
/// The default MTU: the largest that leaves room for headers and alignment.
pub const DEFAULT_MTU: u32 = 65_520;
/// The MTUs that IPv4 and slirp4netns allow.
pub const MTUS: std::ops::RangeInclusive<u32> = 68..=65_521;
/// IPv6 needs this much (RFC 8200, section 5).
pub const MIN_MTU_IPV6: u32 = 1280;

/// Waits until the name of our device is free in the network that `socket` belongs to.
///
/// # Errors
/// [`Exit::CantCreate`] when it stays taken: somebody else connects the network of `pid`.
pub fn await_free_device(socket: impl AsFd, pid: Pid) -> Result<()> {
    let deadline = Instant::now() + DEVICE_PATIENCE;
    while name_to_index(&socket, DEVICE).is_ok() {
        if Instant::now() >= deadline {
            fail!(
                Exit::CantCreate,
                "the network of process {pid} has a device {DEVICE} already: something else connects it (another \
                 slirp4netns or pasta?); end that first"
            );
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// An IPv4 network, its host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Default for Cidr {
    fn default() -> Self {
        Self { network: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 }
    }
}

impl Cidr {
    /// The prefix's length.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The router, which is also the way to the host where that is allowed.
    pub fn gateway(self) -> Ipv4Addr {
        self.host(2)
    }

    /// The name server that passes questions to the host's own.
    pub fn dns(self) -> Ipv4Addr {
        self.host(3)
    }

    /// The namespace's own address.
    pub fn guest(self) -> Ipv4Addr {
        self.host(100)
    }

    fn host(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + n)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').ok_or("expected NETWORK/PREFIX, as in 10.0.2.0/24")?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("{address:?} is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| format!("{prefix:?} is not a prefix length"))?;
        // Up to +100 must fit below the broadcast address.
        if !(1..=25).contains(&prefix) {
            return Err(format!("a prefix of {prefix}: it must be 1 to 25, so that network address + 100 is inside"));
        }
        let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - prefix)));
        if network != address {
            return Err(format!("{address} has host bits set: write {network}/{prefix}"));
        }
        if network.is_unspecified() || network.is_loopback() || network.is_multicast() || network.octets()[0] >= 240 {
            return Err(format!("{network}/{prefix} is not a network for hosts"));
        }
        Ok(Self { network, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_network() {
        let show = |text: &str| text.parse::<Cidr>().map(|c| format!("{c} {} {} {}", c.gateway(), c.dns(), c.guest()));
        assert_eq!(Cidr::default().to_string().parse(), Ok(Cidr::default()));
        assert_eq!(show("10.0.2.0/24").unwrap(), "10.0.2.0/24 10.0.2.2 10.0.2.3 10.0.2.100");
        assert_eq!(show("192.168.7.128/25").unwrap(), "192.168.7.128/25 192.168.7.130 192.168.7.131 192.168.7.228");
        assert_eq!(show("172.16.0.0/12").unwrap(), "172.16.0.0/12 172.16.0.2 172.16.0.3 172.16.0.100");
        for (bad, part) in [
            ("10.0.2.0", "NETWORK/PREFIX"),
            ("10.0.2/24", "not an IPv4 address"),
            ("10.0.2.0/x", "not a prefix"),
            ("10.0.2.0/26", "1 to 25"),
            ("10.0.2.0/0", "1 to 25"),
            ("10.0.2.5/24", "write 10.0.2.0/24"),
            ("127.0.0.0/8", "not a network for hosts"),
            ("0.0.0.0/8", "not a network for hosts"),
            ("224.0.0.0/8", "not a network for hosts"),
        ] {
            let why = show(bad).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }
}
