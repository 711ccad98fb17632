//! The forwards of a run: opened all or none, listed, removed; each through slirp4netns or through the [`Relay`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use serde::{Deserialize, Serialize};

use crate::plan::Style;
use crate::ports::{self, Claim};
use crate::publish::{MAX_FORWARDS, Proto, Publish};
use crate::relay::Relay;
use crate::slirp::{self, Api};

/// A forward as it is shown, with slirp4netns's names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// What `--remove` takes.
    pub id: u32,
    /// The transport.
    pub proto: Proto,
    /// The host's address.
    pub host_addr: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The namespace's address.
    pub guest_addr: Ipv4Addr,
    /// The port inside.
    pub guest_port: u16,
}

impl Entry {
    /// The record that is printed, with its end.
    pub fn record(&self, style: Style) -> Result<String> {
        let Self { id, proto, host_addr, host_port, guest_port, .. } = self;
        let host = SocketAddr::new(*host_addr, *host_port);
        Ok(match style {
            Style::Lines => format!("{id} {proto} {host} {guest_port}\n"),
            Style::Null => format!("{id} {proto} {host} {guest_port}\0"),
            Style::Json => serde_json::to_string(self)? + "\n",
        })
    }
}

/// Who carries a forward.
#[derive(Debug)]
enum Carrier {
    /// slirp4netns, which knows it by this id.
    Slirp(u64),
    Relay,
}

/// All forwards of a run.
#[derive(Debug)]
pub struct Forwards {
    list: Vec<(Entry, Carrier)>,
    last_id: u32,
    guest: Ipv4Addr,
    /// Present where slirp4netns forwards TCP.
    api: Option<Api>,
    /// It is to forward all of it.
    insists: bool,
}

impl Forwards {
    /// None yet, to the address `guest`; TCP goes through `api` where there is one, else through the relay. So do privileged
    /// ports, unless the user `insists`: inside its user namespace slirp4netns has no right to one of the host's.
    pub fn new(guest: Ipv4Addr, api: Option<Api>, insists: bool) -> Self {
        Self { list: Vec::new(), last_id: 0, guest, api, insists }
    }

    /// Opens all of `wanted`, or none. Every port is taken before the first is opened.
    ///
    /// # Errors
    /// [`ports::claim`]'s; [`Exit::Usage`] for what the backend cannot do.
    pub fn open(&mut self, wanted: &[Publish], relay: &mut Relay) -> Result<Vec<Entry>> {
        if self.list.len() + wanted.len() > MAX_FORWARDS {
            fail!(Exit::CantCreate, "more than {MAX_FORWARDS} forwards");
        }
        for publish in wanted {
            if self.api_for(publish.proto, publish.host_port).is_some() && publish.address.is_ipv6() {
                fail!(
                    Exit::Usage,
                    "cannot forward {}/{}: slirp4netns listens on IPv4 addresses only; --forward builtin can",
                    publish.host(),
                    publish.proto
                );
            }
        }
        let claims: Vec<Claim> = wanted.iter().map(ports::claim).collect::<Result<_>>()?;
        let before = self.list.len();
        for (publish, claim) in wanted.iter().zip(claims) {
            if let Err(error) = self.open_one(publish, claim, relay) {
                let opened = self.list.split_off(before);
                // A slirp4netns that does not answer is asked no more: each answer is waited for.
                let _ = opened.iter().try_for_each(|(entry, carrier)| self.close_one(entry, carrier, relay));
                return Err(error);
            }
        }
        Ok(self.entries().skip(before).collect())
    }

    /// Closes those with the given ids, or none when one of them is unknown.
    ///
    /// # Errors
    /// [`Exit::NotFound`] for an unknown id.
    pub fn close(&mut self, ids: &[u32], relay: &mut Relay) -> Result<()> {
        if let Some(id) = ids.iter().find(|id| self.list.iter().all(|(entry, _)| entry.id != **id)) {
            fail!(Exit::NotFound, "there is no forward {id} (d-netup --list PID shows them)");
        }
        let (gone, kept) = std::mem::take(&mut self.list).into_iter().partition(|(entry, _)| ids.contains(&entry.id));
        self.list = kept;
        let gone: Vec<(Entry, Carrier)> = gone;
        gone.iter().try_for_each(|(entry, carrier)| self.close_one(entry, carrier, relay))
    }

    /// What is forwarded, in the order of opening.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.list.iter().map(|(entry, _)| entry.clone())
    }

    fn api_for(&self, proto: Proto, port: Option<u16>) -> Option<&Api> {
        let allowed = || self.insists || !port.is_some_and(ports::is_privileged);
        self.api.as_ref().filter(|_| slirp::forwards(proto) && allowed())
    }

    fn open_one(&mut self, publish: &Publish, claim: Claim, relay: &mut Relay) -> Result<()> {
        let id = self.last_id + 1;
        let host = claim.host;
        let carrier = match self.api_for(publish.proto, publish.host_port) {
            // The claim is held until slirp4netns has the port.
            Some(api) => match api.add(publish, host.port(), self.guest) {
                Ok(id) => Carrier::Slirp(id),
                Err(_) if ports::is_privileged(host.port()) => return Err(ports::not_for_slirp(host)),
                Err(error) => return Err(error),
            },
            None => {
                let refused = |e| match rustix::io::Errno::from_io_error(&e) {
                    Some(errno) => ports::refusal(publish.proto, host, errno),
                    None => e.into(),
                };
                relay.open(id, publish.proto, claim, publish.port).map_err(refused)?;
                Carrier::Relay
            }
        };
        self.last_id = id;
        let entry = Entry {
            id,
            proto: publish.proto,
            host_addr: host.ip(),
            host_port: host.port(),
            guest_addr: self.guest,
            guest_port: publish.port,
        };
        self.list.push((entry, carrier));
        Ok(())
    }

    fn close_one(&self, entry: &Entry, carrier: &Carrier, relay: &mut Relay) -> Result<()> {
        match carrier {
            Carrier::Relay => relay.close(entry.id),
            Carrier::Slirp(id) => {
                let api = self.api.as_ref().or_exit(Exit::Unavailable, || "slirp4netns is gone")?;
                api.remove(*id)?;
            }
        }
        Ok(())
    }
}
