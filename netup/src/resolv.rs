//! The resolv.conf(5) of a command: name servers that are reached from inside, and the host's search list and options.

use std::fmt::Write as _;
use std::net::IpAddr;

/// glibc reads this many name servers (resolv.conf(5), MAXNS).
pub const MAX_SERVERS: usize = 3;

/// The file that has `servers`, and all but the name servers of the `host`'s file.
pub fn resolv_conf(host: &str, servers: &[IpAddr]) -> String {
    let mut text = String::new();
    for line in host.lines().filter(|l| matches!(l.split_whitespace().next(), Some("search" | "domain" | "options"))) {
        let _ = writeln!(text, "{line}");
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_list_stays() {
        let host =
            "# comment\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan example.org\nsortlist 1.2.3.4\n";
        let server = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            resolv_conf(host, &[server("10.0.2.3")]),
            "options edns0 trust-ad\nsearch lan example.org\nnameserver 10.0.2.3\n"
        );
        let many = ["1.1.1.1", "::3"].map(server);
        assert_eq!(resolv_conf("", &many), "nameserver 1.1.1.1\nnameserver ::3\n");
    }
}
