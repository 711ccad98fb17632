//! An image's archive that comes along once, through a pipe: unpacked while it arrives.
//!
//! A thread reads the outer archive. Once index, manifest and config are there it says what the image is, and feeds each layer
//! to the one that applies it as it comes by (`d-pull -o -` sends them in order). What comes too early is kept in a nameless
//! file beside the result. An archive that ends without its end marker, or without one of the layers, is an error: a failed
//! command in front of the pipe cannot pass for an image.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::platform::Platform;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::ahead::{self, Ahead};
use crate::archive::{Archive, BUDGET};
use crate::carried::reading;
use crate::circle::Spares;
use crate::entry::normal;
use crate::image::{Image, find, find_saved};
use crate::layer::{BUFFERS, Layer, feed};
use crate::source::Wanted;
use crate::tar::{Entry, Kind, Reader};

/// How often the image is looked for while members come in; the index, a manifest and a config are among the first, or else
/// the end is soon enough.
const MAX_TRIES: u32 = 100;

/// What the reading thread sends, in this order: the image, its layers, the end.
pub enum Message {
    /// What the image is.
    Image(Box<Image>),
    /// The next layer.
    Layer(Ahead),
    /// The archive has come to its end and everything was there.
    End,
    /// Something went wrong.
    Failed(anyhow::Error),
}

/// Starts to read the archive `input`. What must wait is kept in a nameless file in `dir`.
///
/// # Errors
/// [`Exit::Unavailable`] without threads.
pub fn start(
    input: Ahead,
    dir: &Path,
    wanted: Wanted,
    platform: Option<Platform>,
    max_size: u64,
) -> Result<Receiver<Message>> {
    let spool = Arc::new(nameless_in(dir)?);
    let (sender, receiver) = sync_channel(1);
    ahead::start("stream", move || {
        let archive = Archive::new(Arc::clone(&spool));
        let mut stream = Stream {
            archive,
            spool,
            spooled: 0,
            max_size,
            wanted,
            platform,
            image: None,
            tries: 0,
            next: 0,
            spares: Spares::default(),
            sender: sender.clone(),
        };
        let end = match stream.run(input) {
            Ok(true) => Message::End,
            Ok(false) => return,
            Err(error) => Message::Failed(error),
        };
        let _ = sender.send(end);
    })?;
    Ok(receiver)
}

struct Stream {
    archive: Archive,
    spool: Arc<File>,
    spooled: u64,
    max_size: u64,
    wanted: Wanted,
    platform: Option<Platform>,
    image: Option<Image>,
    tries: u32,
    /// The layer to send next.
    next: usize,
    spares: Spares,
    sender: SyncSender<Message>,
}

impl Stream {
    /// False when the receiver is gone.
    fn run(&mut self, mut input: Ahead) -> Result<bool> {
        let mut reader = Reader::new(&mut input, BUDGET);
        while let Some(entry) = reader.read_entry()? {
            let path = normal(&entry.path)?;
            if let Some(promise) = self.expected(&entry, &path) {
                let (filler, layer) = ahead::pair(BUFFERS, Arc::clone(&self.spares));
                if !self.send(Message::Layer(layer)) {
                    return Ok(false);
                }
                self.next += 1;
                feed(filler, &mut reader, &promise);
            } else if entry.kind != Kind::File || self.is_useful(&path) {
                self.keep(&entry, &mut reader)?;
                if self.image.is_none() && self.tries < MAX_TRIES {
                    self.tries += 1;
                    self.image = find(&self.archive, &self.wanted, self.platform.as_ref())?;
                    if !self.announce() {
                        return Ok(false);
                    }
                }
            }
            if !self.send_spooled()? {
                return Ok(false);
            }
        }
        self.finish()
    }

    /// The promise about the layer that is due, if this entry is it and its data is needed only once.
    fn expected(&self, entry: &Entry, path: &[u8]) -> Option<crate::layer::Promise> {
        let layers = &self.image.as_ref()?.layers;
        let due = layers.get(self.next).filter(|layer| layer.path == path && entry.kind == Kind::File)?;
        let again = layers[self.next + 1..].iter().any(|layer| layer.path == path);
        (!again).then(|| due.promise.clone())
    }

    /// Whether a member may be needed later.
    fn is_useful(&self, path: &[u8]) -> bool {
        self.image.as_ref().is_none_or(|image| image.layers[self.next..].iter().any(|layer| layer.path == path))
    }

    /// Writes a member to the nameless file.
    fn keep(&mut self, entry: &Entry, data: &mut Reader<'_>) -> Result<()> {
        use std::io::BufRead;
        if entry.size > self.max_size.saturating_sub(self.spooled) {
            fail!(Exit::Data, "larger than --max-size allows");
        }
        self.archive.add(entry, self.spooled)?;
        loop {
            let bytes = data.fill_buf().map_err(reading)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let len = bytes.len();
            self.spool.write_all_at(bytes, self.spooled).or_exit(Exit::Io, || "cannot keep a part of the stream")?;
            self.spooled += len as u64;
            data.consume(len);
        }
    }

    fn announce(&self) -> bool {
        self.image.as_ref().is_none_or(|image| self.send(Message::Image(Box::new(image.clone()))))
    }

    /// Sends the layers that are due and kept already.
    fn send_spooled(&mut self) -> Result<bool> {
        while let Some(layer) = self.image.as_ref().and_then(|image| image.layers.get(self.next)) {
            let Some(content) = self.archive.get(&layer.path) else { break };
            let layer = Layer { content, promise: layer.promise.clone() };
            if !self.send(Message::Layer(layer.open(&self.spares)?)) {
                return Ok(false);
            }
            self.next += 1;
        }
        Ok(true)
    }

    /// The archive is at its end: what `docker save` of old wrote says only now what it is.
    fn finish(&mut self) -> Result<bool> {
        if self.image.is_none() {
            let platform = self.platform.as_ref();
            self.image = match find(&self.archive, &self.wanted, platform)? {
                None => find_saved(&self.archive, &self.wanted, platform)?,
                found => found,
            };
            if !self.announce() || !self.send_spooled()? {
                return Ok(false);
            }
        }
        let image = self.image.as_ref().or_exit(Exit::Data, || incomplete(&self.archive))?;
        match image.layers.get(self.next) {
            Some(layer) => {
                let path = String::from_utf8_lossy(&layer.path);
                fail!(Exit::Data, "the archive ends without {path}, a layer of its image")
            }
            None => Ok(true),
        }
    }

    fn send(&self, message: Message) -> bool {
        self.sender.send(message).is_ok()
    }
}

/// Why no image was found in an archive that has all its members.
pub fn incomplete(archive: &Archive) -> &'static str {
    match (archive.get(b"index.json").is_some(), archive.get(b"manifest.json").is_some()) {
        (true, _) => "the archive lacks the manifest or config that its index.json lists",
        (false, true) => "the archive's manifest.json lists no image",
        (false, false) => "the archive has neither an index.json nor a manifest.json: it is no image, or it is cut off",
    }
}

/// A file without a name on the filesystem of `dir`.
///
/// # Errors
/// [`Exit::CantCreate`] when nothing can be made there.
pub fn nameless(dir: impl AsFd) -> Result<File> {
    let (dir, mode) = (dir.as_fd(), Mode::RUSR | Mode::WUSR);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dir, ".", OFlags::TMPFILE | flags, mode).or_else(|_| {
        // A filesystem that has no such files (NFS, old overlays): one that loses its name at once.
        let name = format!(".d-unpack.spool.{}", std::process::id());
        let made = rustix::fs::openat(dir, &name, OFlags::CREATE | OFlags::EXCL | flags, mode)?;
        rustix::fs::unlinkat(dir, &name, AtFlags::empty()).map(|()| made)
    });
    made.map(File::from).map_err(std::io::Error::from).or_exit(Exit::CantCreate, || "cannot make a temporary file")
}

/// The same, by a directory's path.
///
/// # Errors
/// As [`nameless`].
pub fn nameless_in(dir: &Path) -> Result<File> {
    let cannot = || format!("cannot make a temporary file in {}", dir.display());
    nameless(File::open(dir).or_exit(Exit::CantCreate, cannot)?).or_exit(Exit::CantCreate, cannot)
}
