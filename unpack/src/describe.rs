//! What lies beside the root filesystem: config.json, image.json and, last, image.txt (d-container(5)).

use std::io;

use anyhow::Result;
use d_common::container::{CONFIG, IMAGE_JSON, IMAGE_TXT, Stamp, VOLUMES};
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::report::Report;
use rustix::fs::Mode;
use serde_json::Value;

use crate::bundle;
use crate::config::convert;
use crate::identity::Identity;
use crate::image::Image;
use crate::place::Hidden;
use crate::plan::{Shape, Unpack};

/// What an archive without a config has for one.
const NO_CONFIG: &[u8] = b"{}\n";

/// What image.txt will say.
pub fn stamp(image: Option<&Image>, archive: Option<&Digest>, plan: &Unpack, identity: &Identity) -> Stamp {
    Stamp {
        reference: image.and_then(|image| image.reference.clone()),
        digest: image.map(|image| &image.digest).or(archive).map(ToString::to_string),
        platform: image.map(|image| image.platform.to_string()).filter(|p| p != "/"),
        map: Some(identity.map.kind.to_string()),
        options: plan.options(),
    }
}

/// Writes all of it into the hidden directory, whose root filesystem is complete.
///
/// # Errors
/// The filesystem's.
pub fn write(
    hidden: &Hidden,
    image: Option<&Image>,
    stamp: &Stamp,
    plan: &Unpack,
    identity: &Identity,
    report: &Report,
) -> Result<()> {
    let raw = image.map_or(NO_CONFIG, |image| &image.config);
    let (config, dropped) = config(raw, plan.shape, identity, &hidden.path)?;
    if !dropped.is_empty() {
        report.info(format!("dropped from the image's config: {}", dropped.join(", ")));
    }
    hidden.make_dir(VOLUMES, Mode::RWXU)?;
    hidden.write(CONFIG, &pretty(&config))?;
    hidden.write(IMAGE_JSON, raw)?;
    hidden.write(IMAGE_TXT, stamp.to_string().as_bytes())?;
    let mode = if plan.is_shared { Mode::from_raw_mode(0o755) } else { Mode::RWXU };
    rustix::fs::fchmod(&hidden.dir, mode).map_err(io::Error::from).or_exit(Exit::Io, || "cannot set the mode of DIR")
}

/// The config.json that the image config `raw` gives for the container directory `dir`, and what it was dropped from.
///
/// # Errors
/// [`Exit::Data`] when it is no JSON.
pub fn config(raw: &[u8], shape: Shape, identity: &Identity, dir: &std::path::Path) -> Result<(Value, Vec<String>)> {
    let converted = convert(raw, identity.map.kind)?;
    let config = match shape {
        Shape::Plain | Shape::Overlay => converted.config,
        Shape::Bundle => bundle::config(&converted.config, identity, dir)?,
    };
    Ok((config, converted.dropped))
}

/// JSON for people: indented, with a newline at the end.
fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_else(|_| NO_CONFIG.to_vec());
    text.push(b'\n');
    text
}
