//! Fills a root filesystem: layer upon layer, the next ones being read and inflated ahead, and what a later layer replaces left
//! out where all layers are at hand.

use std::cell::LazyCell;
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result};
use d_common::container::ROOTFS;
use d_common::digest::{Algorithm, Digest, Hasher};
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::report::Report;
use rustix::fs::Mode;

use crate::ahead::{Ahead, processors};
use crate::apply::{Applier, Whiteouts};
use crate::circle::Spares;
use crate::identity::Identity;
use crate::layer::Layer;
use crate::opened::Opened;
use crate::place::Hidden;
use crate::plan::Unpack;
use crate::progress::Progress;
use crate::recognise::is_saved_image;
use crate::stream::Message;
use crate::survey::{Fate, Surprise, Survey};
use crate::tar::{Budget, Input};
use crate::zip;

/// Layers that are read at once, at most: each takes 7 MiB of buffers, and its window.
const MAX_AHEAD: usize = 2;

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
            // Made when the first layers are being read ahead.
            let survey = LazyCell::new(|| Survey::make(&layers, &plan.exclude, report));
            match at_hand(&layers, &mut applier, &survey, &mut budget, &progress, report) {
                Err(error) if error.is::<Surprise>() => {
                    report.info("an entry needs a file that a later layer replaces: starting again without a survey");
                    drop(applier);
                    hidden.remove(ROOTFS)?;
                    applier = start()?;
                    budget = plan.budget;
                    let none = LazyCell::new(|| Survey::new(layers.len()));
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
    survey: &LazyCell<Survey, impl FnOnce() -> Survey>,
    budget: &mut Budget,
    progress: &Progress,
    report: &Report,
) -> Result<()> {
    let count = layers.len();
    let mut left_out = HashSet::new();
    each_at_hand(layers, |mut stream, number| {
        progress.layer(number, count);
        let mut fate = survey.of(number - 1, mem::take(&mut left_out));
        applier.layer(&mut stream, &mut fate, budget)?;
        left_out = mem::take(&mut fate.left_out);
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
    let ahead = processors().clamp(1, MAX_AHEAD);
    let mut waiting = layers.iter().peekable();
    let mut open = VecDeque::new();
    let (mut is_alone, spares) = (false, Spares::default());
    for number in 1..=layers.len() {
        while open.len() < ahead
            && let Some(layer) = waiting.peek()
        {
            let has_large_window = layer.has_large_window()?;
            if !open.is_empty() && (has_large_window || is_alone) {
                break;
            }
            is_alone = has_large_window;
            open.push_back(layer.open(&spares)?);
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

impl<R: Read + Send> Input for BufReader<R> {}
