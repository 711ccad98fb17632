//! `d-unpack IMAGE DIR`: from the opened image to the published directory.

use std::collections::VecDeque;
use std::io::{BufReader, Read};
use std::sync::mpsc::Receiver;
use std::thread;

use anyhow::{Context, Result};
use d_common::container::{CONFIG, IMAGE_JSON, IMAGE_TXT, ROOTFS, Stamp, VOLUMES};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use rustix::fs::Mode;
use serde_json::{Value, json};

use crate::apply::{Applier, Whiteouts};
use crate::compression::unpacked;
use crate::config::convert;
use crate::exclude::Exclude;
use crate::identity::Identity;
use crate::image::Image;
use crate::layer::{Content, Layer};
use crate::opened::Opened;
use crate::place::{Hidden, Place, State};
use crate::plan::{Replace, Unpack};
use crate::source;
use crate::stream::Message;
use crate::survey::{Fate, Surprise, Survey};
use crate::tar::{Budget, Reader};

/// Layers that are read ahead at once, at most: each takes some 6 MiB of buffers and its decoder's window.
const MAX_AHEAD: usize = 3;

/// A survey costs a second inflation of what it looks at: up to this many bytes of blobs, or this part of the image.
const SURVEY_BYTES: u64 = 32 << 20;
const SURVEY_PART: u64 = 8;

/// Unpacks, and returns DIR and its stamp.
///
/// # Errors
/// Everything that d-unpack(1) lists under EXIT STATUS.
pub fn run(plan: &Unpack, report: &Report) -> Result<(Place, Stamp)> {
    let source = source::open(&plan.image)?;
    let place = Place::of(&plan.dir)?;
    check_free(&place, plan)?;
    let identity = Identity::take(plan.map, report)?;
    place.clean(report);
    let opened = Opened::new(source, plan, &place.parent)?;
    let hidden = place.begin()?;
    let image = opened.image().cloned();
    let digest = fill(opened, &hidden, plan, &identity, report)?;
    let stamp = describe(&hidden, image.as_ref(), digest, plan, &identity, report)?;
    hidden.publish(&place)?;
    Ok((place, stamp))
}

fn check_free(place: &Place, plan: &Unpack) -> Result<()> {
    let path = place.path.display();
    match (place.state()?, plan.replace) {
        (State::Free, _) | (State::Container, Replace::Keep | Replace::All) => Ok(()),
        (State::Container, Replace::Refuse) => {
            fail!(Exit::CantCreate, "cannot create {path}: it exists; --replace brings it to this image")
        }
        (State::Other, _) => fail!(Exit::CantCreate, "cannot create {path}: it exists and is no container directory"),
    }
}

/// Makes the root filesystem; returns the digest of an archive that is no image.
fn fill(
    opened: Opened,
    hidden: &Hidden,
    plan: &Unpack,
    identity: &Identity,
    report: &Report,
) -> Result<Option<String>> {
    let start = || -> Result<_> {
        let root = hidden.make_dir(ROOTFS, Mode::from_raw_mode(0o755))?;
        Ok(Applier::new(root, identity, plan.rules, &plan.exclude, Whiteouts::Remove))
    };
    let mut budget = plan.budget;
    let mut applier = start()?;
    let mut digest = None;
    match opened {
        Opened::AtHand(_, layers) => {
            let survey = survey(&layers, &plan.exclude, report);
            let first = apply_all(&layers, &mut applier, &survey, &mut budget, report);
            match first {
                Err(error) if error.is::<Surprise>() => {
                    report.info("a hard link wants a file that a later layer replaces: starting again, in order");
                    drop(applier);
                    hidden.remove(ROOTFS)?;
                    applier = start()?;
                    budget = plan.budget;
                    apply_all(&layers, &mut applier, &Survey::new(layers.len()), &mut budget, report)?;
                }
                result => result?,
            }
        }
        Opened::Coming(image, messages) => apply_stream(&image, &messages, &mut applier, &mut budget)?,
        Opened::Rootfs(stream, found) => {
            applier.layer(stream, &mut Fate::unknown(), &mut budget)?;
            digest = found.get().map(ToString::to_string);
        }
        Opened::Zip(_) => fail!(Exit::Unavailable, "zip"),
    }
    applier.finish()?;
    applier.notes.tell(report);
    report.info(format!("{} entries applied", applier.entries));
    Ok(digest)
}

/// Applies layers that are all at hand, the next ones being read ahead.
fn apply_all(
    layers: &[Layer],
    applier: &mut Applier<'_>,
    survey: &Survey,
    budget: &mut Budget,
    report: &Report,
) -> Result<()> {
    let ahead = thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_AHEAD);
    let mut waiting = layers.iter();
    let mut open = VecDeque::new();
    for number in 1..=layers.len() {
        while open.len() < ahead
            && let Some(layer) = waiting.next()
        {
            open.push_back(layer.open()?);
        }
        let Some(stream) = open.pop_front() else { break };
        let mut fate = survey.of(number - 1);
        applier.layer(stream, &mut fate, budget).with_context(|| format!("layer {number} of {}", layers.len()))?;
        report.info(format!("layer {number} of {}: {} files left out", layers.len(), fate.doomed));
    }
    Ok(())
}

fn apply_stream(
    image: &Image,
    messages: &Receiver<Message>,
    applier: &mut Applier<'_>,
    budget: &mut Budget,
) -> Result<()> {
    let count = image.layers.len();
    let mut number = 0;
    loop {
        match messages.recv() {
            Ok(Message::Layer(stream)) => {
                number += 1;
                let what = || format!("layer {number} of {count}");
                applier.layer(stream, &mut Fate::unknown(), budget).with_context(what)?;
            }
            Ok(Message::End) if number == count => return Ok(()),
            Ok(Message::Failed(error)) => return Err(error),
            _ => fail!(Exit::Data, "the archive ends early"),
        }
    }
}

/// Looks at the headers of the upper layers, from the top down, as far as it is worth it. A layer that does not read ends the
/// survey; applying it will say why.
fn survey(layers: &[Layer], exclude: &Exclude, report: &Report) -> Survey {
    let size = |layer: &Layer| match &layer.content {
        Content::Part { len, .. } => *len,
        Content::Path(path) => path.metadata().map_or(0, |m| m.len()),
    };
    let total: u64 = layers.iter().map(size).sum();
    let mut allowance = SURVEY_BYTES.max(total / SURVEY_PART);
    let mut survey = Survey::new(layers.len());
    // Nothing lies beneath the first.
    for (number, layer) in layers.iter().enumerate().skip(1).rev() {
        let Some(left) = allowance.checked_sub(size(layer)) else { break };
        allowance = left;
        match look_at(&mut survey, number, layer, exclude) {
            Ok(true) => survey.complete(number),
            Ok(false) => break,
            Err(error) => {
                report.debug(format!("no survey of layer {}: {error}", number + 1));
                return Survey::new(layers.len());
            }
        }
    }
    survey
}

fn look_at(survey: &mut Survey, number: usize, layer: &Layer, exclude: &Exclude) -> Result<bool> {
    let input = BufReader::with_capacity(128 << 10, layer.content.open()?);
    let plain = BufReader::with_capacity(128 << 10, unpacked(input)?.1);
    // The bounds are kept when the layers are applied.
    let mut reader = Reader::new(plain, Budget { bytes: u64::MAX >> 1, entries: u64::MAX });
    while let Some(entry) = reader.read_entry()? {
        if !survey.add(number, &entry, exclude)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes what lies beside the root filesystem, image.txt last.
fn describe(
    hidden: &Hidden,
    image: Option<&Image>,
    digest: Option<String>,
    plan: &Unpack,
    identity: &Identity,
    report: &Report,
) -> Result<Stamp> {
    let raw = image.map_or(&b"{}\n"[..], |image| &image.config);
    let parsed: Value = serde_json::from_slice(raw).or_exit(Exit::Data, || "the image's config does not read")?;
    let converted = convert(&parsed, identity.map.kind);
    if !converted.dropped.is_empty() {
        report.info(format!("dropped from the image's config: {}", converted.dropped.join(", ")));
    }
    hidden.make_dir(VOLUMES, Mode::RWXU)?;
    hidden.write(CONFIG, &pretty(&converted.config))?;
    hidden.write(IMAGE_JSON, raw)?;
    let stamp = Stamp {
        reference: image.and_then(|image| image.reference.clone()),
        digest: image.map(|image| image.digest.to_string()).or(digest),
        platform: image.map(|image| image.platform.to_string()).filter(|p| p != "/"),
        map: Some(identity.map.kind.to_string()),
        options: plan.options(),
    };
    hidden.write(IMAGE_TXT, stamp.to_string().as_bytes())?;
    if plan.is_shared {
        let open = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(&hidden.dir, open).map_err(std::io::Error::from).or_exit(Exit::Io, || "cannot open DIR")?;
    }
    Ok(stamp)
}

/// JSON for people: indented, with a newline at the end.
fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_else(|_| json!({}).to_string().into_bytes());
    text.push(b'\n');
    text
}

impl<R: Read> crate::tar::Input for BufReader<R> {}
