//! Routes that close the way to the host's loopback.
//!
//! A packet for 127.0.0.1 stays in the namespace, unless its socket is bound to the tap device (SO_BINDTODEVICE, which needs
//! no privilege): the kernel's own route is that of `lo`, so the default route takes it, and slirp4netns and pasta connect to
//! whatever address they read, as the host's. So these addresses are made local at the device, too. (A route that refuses
//! would not do: where one is bound to a device and there is no route, the kernel takes the address for a neighbour's.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::network::DEVICE;

// linux/netlink.h, linux/rtnetlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

/// The loopback networks.
const LOOPBACKS: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];

/// Adds the routes to this process's network, whose device must be up; the kernel removes them with it.
///
/// # Errors
/// rtnetlink(7)'s. Where the device has no IPv6, it needs no route of it.
pub fn close() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let asking = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let device = name_to_index(asking, DEVICE)?;
    for (network, prefix) in LOOPBACKS {
        send(&socket, &request(network, prefix, device), SendFlags::empty())?;
        let mut answer = [0u8; 512];
        let (n, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        match outcome(answer.get(..n).unwrap_or_default()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(_) if network.is_ipv6() => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The message that asks for a local route to `network/prefix` at the device with this index, after those that there are.
fn request(network: IpAddr, prefix: u8, device: u32) -> Vec<u8> {
    let (family, address) = match network {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let family = u8::try_from(family.as_raw()).unwrap_or(0);
    // struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
    let mut body = vec![family, prefix, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    for (kind, value) in [(RTA_DST, address), (RTA_OIF, device.to_ne_bytes().to_vec())] {
        // struct rtattr: its length, its type. All values are aligned as they are.
        body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    }
    // struct nlmsghdr: length, type, flags, sequence, port.
    let mut message = u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
    message.extend(RTM_NEWROUTE.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// What an acknowledgement says: behind the header an errno, negative, or 0.
fn outcome(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(Errno::from_raw_os_error(-errno)),
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_rtnetlinks() {
        let [v4, v6] = LOOPBACKS.map(|(network, prefix)| request(network, prefix, 7));
        assert_eq!((v4.len(), v6.len()), (44, 56));
        assert_eq!(v4[..2], 44u16.to_ne_bytes());
        assert_eq!(v4[16..24], [2, 8, 0, 0, 255, 4, 254, 2]);
        assert_eq!(v4[32..36], [127, 0, 0, 0]);
        assert_eq!(v4[40..], 7u32.to_ne_bytes());
        let answer = |errno: i32| [&[0; 4][..], &2u16.to_ne_bytes(), &[0; 10], &errno.to_ne_bytes()].concat();
        assert_eq!(outcome(&answer(0)), Ok(()));
        assert_eq!(outcome(&answer(-17)), Err(Errno::EXIST));
        assert_eq!(outcome(&[0; 4]), Err(Errno::PROTO));
    }
}
