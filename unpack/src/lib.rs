//! Unpack a container image into a plain directory, without root.
//!
//! The way of the data: an operand ([`source`]) is opened ([`opened`]) as an image ([`image`]) or an archive ([`recognise`]);
//! its layers are inflated and hashed on threads of their own ([`layer`], [`ahead`]), read as tar archives ([`tar`]), understood
//! entry by entry ([`entry`]) and applied ([`apply`]) to a tree of directory handles ([`rootfs`]), which appears under its name
//! when it is complete ([`place`]).

#![forbid(unsafe_code)]

pub mod ahead;
pub mod apply;
pub mod archive;
pub mod args;
pub mod bundle;
mod carried;
pub mod check;
pub mod circle;
pub mod compression;
pub mod config;
pub mod content;
pub mod delete;
pub mod describe;
pub mod entry;
pub mod exclude;
pub mod fill;
pub mod fingerprints;
pub mod identity;
pub mod image;
pub mod layer;
pub mod layers;
pub mod metadata;
pub mod notes;
pub mod opened;
pub mod packed;
pub mod place;
pub mod plan;
pub mod progress;
pub mod recognise;
pub mod remove;
pub mod replace;
pub mod rootfs;
pub mod source;
pub mod spared;
pub mod stream;
pub mod survey;
pub mod tar;
pub mod unpack;
pub mod whiteout;
pub mod zip;

use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use d_common::container::Stamp;
use d_common::exit::Exit;
use d_common::output;
use d_common::report::Report;
use d_common::sys;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit, umask};
use serde_json::json;

use place::Place;
use plan::{Output, Plan};

/// Does what was planned. Where it goes on after failures it has told them; the first one's exit code.
///
/// # Errors
/// With an exit code as d-unpack(1) lists them.
pub fn run(plan: &Plan, report: &Report) -> Result<Option<Exit>> {
    // Modes are the image's; whiteouts in deep trees hold a descriptor a level.
    umask(Mode::empty());
    raise_descriptor_limit();
    // A file that grows over its limit (`ulimit -f`) is a failed write(2).
    sys::ignore_signal(Signal::XFSZ.as_raw());
    match plan {
        Plan::Unpack(plan) => {
            let (place, stamp) = unpack::run(plan, report)?;
            print(&place, &stamp, plan.output)?;
        }
        Plan::Remove { dirs, volumes } => return delete::run(dirs, *volumes, report),
        Plan::Collect(cache) => layers::collect(cache, report)?,
        Plan::Check { json } => check::run(*json)?,
    }
    Ok(None)
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn print(place: &Place, stamp: &Stamp, output: Output) -> Result<()> {
    let path = place.path.as_os_str().as_bytes();
    let line = match output {
        Output::Line => [path, b"\n"].concat(),
        Output::Nul => [path, b"\0"].concat(),
        Output::Json => {
            let object = json!({
                "dir": place.path.to_string_lossy(),
                "reference": stamp.reference,
                "digest": stamp.digest,
                "platform": stamp.platform,
                "map": stamp.map,
            });
            format!("{object}\n").into_bytes()
        }
    };
    output::print(&line)
}
