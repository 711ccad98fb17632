//! pasta(1) as the backend: the same addresses inside as slirp4netns gives, and the same rules.
//!
//! Its own port forwarding is off, since it cannot be changed while it runs; d-netup forwards. It has no exit descriptor, so
//! the gate, which outlives the supervisor for a moment, is given a handle to it and ends it.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::report::Report;

use crate::gate::Gate;
use crate::helper::{Helper, Launch, new_pipe};
use crate::network::DEVICE;
use crate::plan::Network;
use crate::target::Target;

/// The program's name.
pub const NAME: &str = "pasta";

/// Starts pasta on the target's network and waits until it is ready.
///
/// # Errors
/// [`Exit::Unavailable`] with pasta's words.
pub fn start(program: &Path, target: &Target, gate: &Gate, network: &Network, report: &Report) -> Result<Helper> {
    let (_exit_read, exit_write) = new_pipe()?;
    let (ready_read, ready_write) = new_pipe()?;
    let mut args = options(network);
    let mut keep = vec![ready_write.as_fd(), target.netns.as_fd()];
    // pasta writes its pid file when the network is up.
    args.extend([OsString::from("--pid"), format!("/proc/self/fd/{}", ready_write.as_raw_fd()).into()]);
    match &target.userns {
        Some(userns) => {
            keep.push(userns.as_fd());
            args.extend(["--userns".into(), format!("/proc/self/fd/{}", userns.as_raw_fd()).into()]);
        }
        None => args.push("--netns-only".into()),
    }
    args.extend(["--netns".into(), format!("/proc/self/fd/{}", target.netns.as_raw_fd()).into()]);
    let launch = Launch { name: NAME, program, args, enter: None, directory: None, keep };
    report.debug(format_args!("starting {} {:?}", program.display(), launch.args));
    let mut helper = Helper::start(&launch, exit_write)?;
    drop(ready_write);
    gate.guard(helper.pidfd()).or_exit(Exit::Unavailable, || "the gate process died")?;
    helper.wait_until_ready(ready_read, report)?;
    Ok(helper)
}

/// The options for `network`.
fn options(network: &Network) -> Vec<OsString> {
    let cidr = network.cidr;
    let mut args: Vec<String> = ["--foreground", "--quiet", "--config-net", "--no-dhcp"].map(str::to_owned).to_vec();
    let mut pair = |option: &str, value: String| args.extend([option.to_owned(), value]);
    pair("--ns-ifname", DEVICE.to_owned());
    pair("--mtu", network.mtu.to_string());
    pair("--address", cidr.guest().to_string());
    pair("--netmask", cidr.prefix().to_string());
    pair("--gateway", cidr.gateway().to_string());
    for ports in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        pair(ports, "none".to_owned());
    }
    if network.dns {
        pair("--dns-forward", cidr.dns().to_string());
    }
    if let Some(outbound) = &network.outbound {
        let option = if outbound.parse::<IpAddr>().is_ok() { "--outbound" } else { "--outbound-if4" };
        pair(option, outbound.clone());
    }
    if !network.ipv6 {
        args.push("--ipv4-only".to_owned());
    }
    if !network.host_loopback {
        args.push("--no-map-gw".to_owned());
    }
    args.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_network() {
        let show = |network: &Network| {
            options(network).iter().map(|o| o.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        let network = Network::default();
        assert!(show(&network).contains("--address 10.0.2.100 --netmask 24 --gateway 10.0.2.2"));
        assert!(show(&network).ends_with("--dns-forward 10.0.2.3 --ipv4-only --no-map-gw"));
        let network = Network {
            dns: false,
            ipv6: true,
            host_loopback: true,
            outbound: Some("eth0".into()),
            cidr: "192.168.0.0/25".parse().unwrap(),
            ..network
        };
        assert!(show(&network).contains("--address 192.168.0.100 --netmask 25 --gateway 192.168.0.2"));
        assert!(show(&network).ends_with("--udp-ns none --outbound-if4 eth0"));
    }
}
