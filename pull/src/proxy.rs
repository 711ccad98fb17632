//! Which proxy a URL is asked through: `http_proxy`, `https_proxy`, `all_proxy`, and what `no_proxy` spares (curl(1),
//! ENVIRONMENT; Go's `httpproxy`, which skopeo and podman use).
//!
//! A name in lower case comes before one in capitals. Nothing is wrong with a value before it is needed.

use std::fmt;
use std::net::IpAddr;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use reqwest::Url;

use crate::args::Env;

/// The proxies of the environment.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    spared: String,
}

/// A variable and its value.
type Setting = (&'static str, String);

impl fmt::Debug for Proxies {
    /// Without the values: there may be passwords in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    /// What the environment says.
    pub fn new(env: Env<'_>) -> Self {
        let first = |names: &[&'static str]| {
            let value = |name: &&'static str| env(name).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty());
            names.iter().find_map(|name| Some((*name, value(name)?)))
        };
        // A CGI program finds a header of its client there.
        let http = if env("REQUEST_METHOD").is_some() { &["http_proxy"][..] } else { &["http_proxy", "HTTP_PROXY"] };
        let all = || first(&["all_proxy", "ALL_PROXY"]);
        Self {
            http: first(http).or_else(all),
            https: first(&["https_proxy", "HTTPS_PROXY"]).or_else(all),
            spared: first(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default(),
        }
    }

    /// The proxy for `url`; `None` when it is asked itself.
    ///
    /// # Errors
    /// [`Exit::Usage`] when the variable names none that can be used.
    pub fn of(&self, url: &Url) -> Result<Option<Url>> {
        let setting = if url.scheme() == "http" { &self.http } else { &self.https };
        let Some((name, value)) = setting.as_ref().filter(|_| !self.spares(url)) else { return Ok(None) };
        let text = if value.contains("://") { value.clone() } else { format!("http://{value}") };
        // Not the value itself in the message: it may hold a password.
        let proxy =
            Url::parse(&text).ok().filter(Url::has_host).or_exit(Exit::Usage, || format!("{name} is no URL"))?;
        if !matches!(proxy.scheme(), "http" | "https") {
            fail!(Exit::Usage, "{name}: proxies of the kind {}:// are not supported", proxy.scheme());
        }
        Ok(Some(proxy))
    }

    fn spares(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default();
        let entries = self.spared.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        entries.into_iter().any(|entry| covers(&entry.to_ascii_lowercase(), host, port))
    }
}

/// Whether an entry of `no_proxy` covers a host: `*`, `HOST[:PORT]` with all below it, an address, a network.
fn covers(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    if let Some((network, length)) = entry.split_once('/') {
        let (Ok(network), Ok(length), Some(address)) = (network.parse(), length.parse(), address) else { return false };
        return within(network, length, address);
    }
    let (name, wanted) = split_port(entry);
    if wanted.is_some_and(|wanted| Some(wanted) != port) {
        return false;
    }
    if let Ok(wanted) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address == Some(wanted);
    }
    let domain = name.trim_start_matches('*').trim_start_matches('.');
    let below = host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !domain.is_empty() && address.is_none() && below
}

/// `HOST:PORT` in its parts; an IPv6 address without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn within(network: IpAddr, length: u32, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let shift = |bits: u128| bits.checked_shr(width - length.min(width)).unwrap_or(0);
    length <= width && shift(network) == shift(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn proxy(env: &[(&str, &str)], url: &str) -> Result<Option<String>> {
        let get = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        Ok(Proxies::new(&get).of(&Url::parse(url).unwrap())?.map(|p| p.to_string()))
    }

    #[test]
    fn each_scheme_has_its_own() {
        let env = [("http_proxy", "p:1"), ("HTTP_PROXY", "q:1"), ("all_proxy", "https://u:p@all:2")];
        assert_eq!(proxy(&env, "http://x/").unwrap().unwrap(), "http://p:1/");
        assert_eq!(proxy(&env, "https://x/").unwrap().unwrap(), "https://u:p@all:2/");
        assert_eq!(proxy(&env[1..2], "http://x/").unwrap().unwrap(), "http://q:1/");
        assert_eq!(proxy(&[env[1], ("REQUEST_METHOD", "GET")], "http://x/").unwrap(), None);
        assert_eq!(proxy(&[("http_proxy", "")], "http://x/").unwrap(), None);
    }

    #[test]
    fn what_is_no_proxy_is_an_error_where_it_is_needed() {
        for bad in ["garbage://", "http://", "socks5://h:1", "http://h:port/"] {
            let env = [("http_proxy", bad), ("no_proxy", "spared")];
            assert!(proxy(&env, "http://x/").unwrap_err().to_string().contains("http_proxy"), "{bad}");
            assert_eq!(proxy(&env, "http://spared/").unwrap(), None);
            assert_eq!(proxy(&env, "https://x/").unwrap(), None);
        }
        assert!(!format!("{:?}", Proxies::new(&|_| Some("http://u:secret@h".into()))).contains("http"));
    }

    #[test]
    fn hosts_are_spared_by_name_address_network_and_port() {
        let spared = |entries: &str, host: &str| {
            proxy(&[("http_proxy", "p"), ("no_proxy", entries)], &format!("http://{host}/")).unwrap().is_none()
        };
        for (entries, host) in [
            ("*", "127.0.0.1:5000"),
            (" * ", "x"),
            ("foo,*", "x"),
            ("127.0.0.1", "127.0.0.1:5000"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("10.0.0.0/8,127.0.0.0/8", "127.9.9.9"),
            ("::1", "[::1]:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("fd00::/8", "[fd12::1]"),
            ("Example.com", "a.example.COM:5000"),
            (".example.com", "example.com"),
            ("*.example.com", "a.b.example.com"),
            ("a b:80", "b"),
            ("0.0.0.0/0", "1.2.3.4"),
        ] {
            assert!(spared(entries, host), "{entries} {host}");
        }
        for (entries, host) in [
            ("", "x"),
            ("127.0.0.1:5001", "127.0.0.1:5000"),
            ("127.0.0.1", "127.0.0.11"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/33", "10.0.0.1"),
            ("0.0.0.0/0", "[::1]"),
            ("example.com", "badexample.com"),
            (".", "x"),
            ("1", "10.0.0.1"),
        ] {
            assert!(!spared(entries, host), "{entries} {host}");
        }
    }
}
