//! Reading what is known of the caller: its terminals, its environment, its resolver, the env files that it names.

use std::fs;
use std::path::Path;

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::layout::read_bounded;
use d_common::userns;

use crate::args::Args;
use crate::plan::Caller;
use crate::scratch;
use crate::terminal::Job;

/// The largest env file that is read, in bytes.
const MAX_ENV_FILE: u64 = 16 << 20;

impl Caller {
    /// Reads it all. `below` are config.json's options, which may name env files too.
    ///
    /// # Errors
    /// [`Exit::Enter`] for an env file that cannot be read.
    pub fn read(args: &Args, below: &Args) -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let files = below.env_file.iter().chain(&args.env_file);
        let env_files = files.map(|path| {
            let open = fs::File::open(path).and_then(|f| read_bounded(f, MAX_ENV_FILE));
            open.or_exit(Exit::Enter, || format!("cannot read the env file {}", Path::new(path).display()))
        });
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        Ok(Self {
            terminals: streams.map(rustix::termios::isatty),
            job: Job::of(rustix::stdio::stdin()),
            environment: std::env::vars_os().collect(),
            resolv_conf: text("/etc/resolv.conf"),
            hosts: text("/etc/hosts"),
            env_files: env_files.collect::<Result<_>>()?,
            // The marks that the engines leave.
            in_container: std::env::var_os("container").is_some()
                || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()),
            tmpfs_keeps_attributes: (args.ephemeral.is_some() || below.ephemeral.is_some())
                && scratch::tmpfs_keeps_attributes(),
            name: userns::user_name(rustix::process::geteuid().as_raw()),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        })
    }
}
