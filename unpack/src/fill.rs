//! Fills a root filesystem: layer upon layer, the next ones being read and inflated ahead, and what a later layer replaces left
//! out where all layers are at hand.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;
use std::thread;

use anyhow::{Context, Result};
use d_common::container::ROOTFS;
use d_common::digest::{Algorithm, Digest, Hasher};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use rustix::fs::Mode;

use crate::ahead::Ahead;
use crate::apply::{Applier, Whiteouts};
use crate::compression::unpacked;
use crate::exclude::Exclude;
use crate::identity::Identity;
use crate::layer::{Content, Layer};
use crate::opened::Opened;
use crate::place::Hidden;
use crate::plan::Unpack;
use crate::progress::Progress;
use crate::recognise::is_saved_image;
use crate::stream::Message;
use crate::survey::{Fate, Surprise, Survey};
use crate::tar::{Budget, Input, Reader};
use crate::zip;

/// Layers that are read ahead at once, at most: each takes some 6 MiB of buffers.
const MAX_AHEAD: usize = 3;

/// A survey costs a second inflation of what it looks at: up to this many bytes of blobs, or this part of the image.
const SURVEY_BYTES: u64 = 32 << 20;
const SURVEY_PART: u64 = 8;

/// Makes the root filesystem; returns the digest of an archive that is no image.
///
/// # Errors
/// [`Exit::Data`] for what is broken or hostile; what the filesystem refuses.
pub fn rootfs(
    opened: Opened,
    hidden: &Hidden,
    plan: &Unpack,
    identity: &Identity,
    report: &Report,
) -> Result<Option<Digest>> {
    let start = || -> Result<_> {
        let root = hidden.make_dir(ROOTFS, Mode::from_raw_mode(0o755))?;
        Applier::new(root, identity, plan.rules, &plan.exclude, Whiteouts::Remove)
    };
    let mut budget = plan.budget;
    let progress = Progress::new(plan.progress, report);
    let mut applier = start()?;
    let mut digest = None;
    match opened {
        Opened::AtHand(_, layers) => {
            let survey = survey(&layers, &plan.exclude, report);
            match at_hand(&layers, &mut applier, &survey, &mut budget, &progress, report) {
                Err(error) if error.is::<Surprise>() => {
                    report
                        .info("a hard link wants a file that a later layer replaces: starting again without a survey");
                    drop(applier);
                    hidden.remove(ROOTFS)?;
                    applier = start()?;
                    budget = plan.budget;
                    let none = Survey::new(layers.len());
                    at_hand(&layers, &mut applier, &none, &mut budget, &progress, report)?;
                }
                result => result?,
            }
        }
        Opened::Coming(image, messages) => {
            each_coming(&messages, image.layers.len(), |mut stream, number| {
                progress.layer(number, image.layers.len());
                applier.layer(&mut stream, &mut Fate::unknown(), &mut budget)
            })?;
        }
        Opened::Rootfs(mut stream, found) => {
            applier.layer(&mut stream, &mut Fate::unknown(), &mut budget)?;
            if is_saved_image(&hidden.path.join(ROOTFS)) {
                fail!(
                    Exit::Data,
                    "an image's archive whose first names do not say so: put it in a file, not in a pipe"
                );
            }
            digest = found.get().cloned();
        }
        Opened::Zip(file) => {
            digest = Some(digest_of(&file)?);
            zip::apply(file, &mut applier, &mut budget)?;
        }
    }
    applier.finish()?;
    progress.end();
    applier.notes.tell(report);
    report.info(format!("{} entries applied", applier.entries));
    Ok(digest)
}

/// Applies layers that are all at hand, the next ones being read ahead.
fn at_hand(
    layers: &[Layer],
    applier: &mut Applier<'_>,
    survey: &Survey,
    budget: &mut Budget,
    progress: &Progress,
    report: &Report,
) -> Result<()> {
    let count = layers.len();
    each_at_hand(layers, |mut stream, number| {
        progress.layer(number, count);
        let mut fate = survey.of(number - 1);
        applier.layer(&mut stream, &mut fate, budget)?;
        report.info(format!("layer {number} of {count}: {} files left out that a later one replaces", fate.doomed));
        Ok(())
    })
}

/// Gives each layer's archive and number (from 1) to `apply`, in order, while the next ones are read ahead. What takes a large
/// window is read alone, so that memory is bounded by one of them.
///
/// # Errors
/// Those of opening and applying.
pub fn each_at_hand(layers: &[Layer], mut apply: impl FnMut(Ahead, usize) -> Result<()>) -> Result<()> {
    let ahead = thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_AHEAD);
    let mut waiting = layers.iter().peekable();
    let mut open = VecDeque::new();
    let mut is_alone = false;
    for number in 1..=layers.len() {
        while open.len() < ahead
            && let Some(layer) = waiting.peek()
        {
            let has_large_window = layer.has_large_window()?;
            if !open.is_empty() && (has_large_window || is_alone) {
                break;
            }
            is_alone = has_large_window;
            open.push_back(layer.open()?);
            waiting.next();
        }
        let Some(stream) = open.pop_front() else { break };
        apply(stream, number).with_context(|| format!("layer {number} of {}", layers.len()))?;
    }
    Ok(())
}

/// The same for the `count` layers of an image that comes in.
///
/// # Errors
/// Those of reading and applying; [`Exit::Data`] when layers are missing.
pub fn each_coming(
    messages: &Receiver<Message>,
    count: usize,
    mut apply: impl FnMut(Ahead, usize) -> Result<()>,
) -> Result<()> {
    let mut number = 0;
    loop {
        match messages.recv() {
            Ok(Message::Layer(stream)) => {
                number += 1;
                apply(stream, number).with_context(|| format!("layer {number} of {count}"))?;
            }
            Ok(Message::End) if number == count => return Ok(()),
            Ok(Message::Failed(error)) => return Err(error),
            _ => fail!(Exit::Data, "the archive ends early"),
        }
    }
}

/// The SHA-256 of a file.
///
/// # Errors
/// [`Exit::Io`].
pub fn digest_of(file: &File) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    loop {
        let len = file.read_at(&mut buffer, at).or_exit(Exit::Io, || "cannot read the archive")?;
        if len == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..len]);
        at += len as u64;
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
    let mut plain = BufReader::with_capacity(128 << 10, unpacked(input)?.1);
    // The bounds are kept when the layers are applied.
    let mut reader = Reader::new(&mut plain, Budget { bytes: u64::MAX >> 1, entries: u64::MAX });
    while let Some(entry) = reader.read_entry()? {
        if !survey.add(number, &entry, exclude)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl<R: Read + Send> Input for BufReader<R> {}
