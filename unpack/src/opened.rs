//! IMAGE, opened: what it is and where its layers come from.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit, failure};
use d_common::fail;

use crate::ahead;
use crate::archive::Archive;
use crate::carried::reading;
use crate::circle::Spares;
use crate::compression::unpacked;
use crate::image::{Image, Store, find, find_saved};
use crate::layer::{Content, Layer, Promise, feed};
use crate::plan::{Shape, Unpack};
use crate::recognise::{Form, look_through, recognise};
use crate::source::{Source, Wanted};
use crate::stream::{self, Message, incomplete};

/// Buffers between a pipe and the thread that reads the archive in it.
const STREAM_BUFFERS: usize = 16;

/// What is unpacked.
pub enum Opened {
    /// An image whose layers can be read in any order, again and again.
    AtHand(Image, Vec<Layer>),
    /// An image that comes in.
    Coming(Image, Receiver<Message>),
    /// A root filesystem as a tar archive.
    Rootfs(ahead::Ahead, Arc<OnceLock<Digest>>),
    /// A root filesystem as a zip file.
    Zip(File),
}

impl Opened {
    /// The image, where it is one.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Self::AtHand(image, _) | Self::Coming(image, _) => Some(image),
            Self::Rootfs(..) | Self::Zip(_) => None,
        }
    }

    /// Whether nothing is lost when it is not read.
    pub fn is_at_hand(&self) -> bool {
        !matches!(self, Self::Coming(..))
    }

    /// Finds out what `source` is. What a stream makes wait is kept in a nameless file in `dir`.
    ///
    /// # Errors
    /// [`Exit::NotFound`] for an image that is not there, [`Exit::Data`] for what is none.
    pub fn new(source: Source, plan: &Unpack, dir: &Path) -> Result<Self> {
        match source {
            Source::Layout(layout, wanted) => {
                let root = layout.root().display().to_string();
                let image = find(&layout, &wanted, plan.platform.as_ref()).map_err(|e| e.context(root.clone()))?;
                let image = image.or_exit(Exit::NotFound, || format!("no image in {root}"))?;
                at_hand(image, |layer| layer.promise.blob.as_ref().and_then(|digest| layout.content(digest)))
            }
            Source::File(path, file, wanted) => {
                Self::of_archive(file, wanted, plan, dir, true).map_err(|e| e.context(path.display().to_string()))
            }
            Source::Stream(file) => Self::of_archive(file, Wanted::Any, plan, dir, false),
        }
    }

    fn of_archive(mut file: File, wanted: Wanted, plan: &Unpack, dir: &Path, is_seekable: bool) -> Result<Self> {
        let mut start = recognise(&mut file, !is_seekable)?;
        let mut is_seekable = is_seekable;
        if start.form == Form::Unclear {
            if !is_seekable {
                file = spooled(&start.bytes, file, dir, plan.budget.bytes)?;
                is_seekable = true;
            }
            start.form = look_through(&file)?;
            start.bytes.clear();
            file.rewind().or_exit(Exit::Io, || "cannot read the archive again")?;
        }
        if start.form != Form::Image && wanted != Wanted::Any {
            fail!(Exit::NotFound, "a root filesystem's archive has no images to choose from");
        }
        if start.form == Form::Image && plan.shape == Shape::Overlay && !(start.is_plain && is_seekable) {
            // Which of its layers are needed is decided from the top down.
            let (_, plain) = unpacked(BufReader::with_capacity(128 << 10, Cursor::new(&start.bytes).chain(file)))?;
            file = spooled(&[], plain, dir, plan.budget.bytes)?;
            (start.is_plain, is_seekable) = (true, true);
        }
        match start.form {
            Form::Image if start.is_plain && is_seekable => {
                let archive = Archive::scan(Arc::new(file))?;
                let mut image = find(&archive, &wanted, plan.platform.as_ref())?;
                if image.is_none() {
                    image = find_saved(&archive, &wanted, plan.platform.as_ref())?;
                }
                at_hand(image.ok_or_else(|| failure(Exit::Data, incomplete(&archive)))?, |layer| {
                    archive.get(&layer.path)
                })
            }
            Form::Image => {
                let (_, input) = unpacked(BufReader::with_capacity(128 << 10, Cursor::new(start.bytes).chain(file)))?;
                let input = ahead::spawn(input, STREAM_BUFFERS)?;
                let messages = stream::start(input, dir, wanted, plan.platform.clone(), plan.budget.bytes)?;
                match messages.recv() {
                    Ok(Message::Image(image)) => Ok(Self::Coming(*image, messages)),
                    Ok(Message::Failed(error)) => Err(error),
                    _ => fail!(Exit::Data, "the archive holds no image"),
                }
            }
            Form::Rootfs => {
                let (filler, ahead) = ahead::pair(crate::layer::BUFFERS, Spares::default());
                let found = Arc::new(OnceLock::new());
                let promise = Promise { found: Some(Arc::clone(&found)), ..Promise::default() };
                let input = Cursor::new(start.bytes).chain(file);
                ahead::start("archive", move || feed(filler, input, &promise))?;
                Ok(Self::Rootfs(ahead, found))
            }
            Form::Zip if is_seekable => {
                file.rewind().or_exit(Exit::Io, || "cannot read the archive again")?;
                Ok(Self::Zip(file))
            }
            // Its directory is at its end.
            Form::Zip => Ok(Self::Zip(spooled(&start.bytes, file, dir, plan.budget.bytes)?)),
            Form::Unclear => fail!(Exit::Data, "neither an image nor an archive of a root filesystem"),
        }
    }
}

/// A stream, of which `start` was read, as a nameless file in `dir`.
fn spooled(start: &[u8], stream: impl Read, dir: &Path, max_size: u64) -> Result<File> {
    let mut spool = stream::nameless_in(dir)?;
    std::io::copy(&mut start.chain(stream).take(max_size), &mut spool).map_err(reading)?;
    spool.rewind().or_exit(Exit::Io, || "cannot keep the archive")?;
    Ok(spool)
}

fn at_hand(image: Image, content: impl Fn(&crate::image::LayerRef) -> Option<Content>) -> Result<Opened> {
    let layer = |layer: &crate::image::LayerRef| {
        let path = || format!("the image lacks its layer {}", String::from_utf8_lossy(&layer.path));
        Ok(Layer { content: content(layer).or_exit(Exit::Data, path)?, promise: layer.promise.clone() })
    };
    let layers = image.layers.iter().map(layer).collect::<Result<_>>()?;
    Ok(Opened::AtHand(image, layers))
}
