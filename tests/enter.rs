//! d-enter(1): namespaces, mounts, users, capabilities, terminals, signals, exit codes.
//!
//! Written from the specification, option by option: each test is a sentence of it. What holds under both maps is tested
//! under both.

#[path = "enter/arguments.rs"]
mod arguments;
#[path = "enter/command.rs"]
mod command;
#[path = "enter/config.rs"]
mod config;
#[path = "enter/debian.rs"]
mod debian;
#[path = "enter/ephemeral.rs"]
mod ephemeral;
#[path = "enter/etc.rs"]
mod etc;
#[path = "enter/files.rs"]
mod files;
#[path = "enter/identity.rs"]
mod identity;
#[path = "enter/init.rs"]
mod init;
#[path = "enter/leftovers.rs"]
mod leftovers;
#[path = "enter/monitoring.rs"]
mod monitoring;
#[path = "enter/network.rs"]
mod network;
#[path = "enter/place.rs"]
mod place;
#[path = "enter/process.rs"]
mod process;
#[path = "enter/security.rs"]
mod security;
#[path = "enter/special.rs"]
mod special;
#[path = "enter/terminal.rs"]
mod terminal;
#[path = "enter/volumes.rs"]
mod volumes;
