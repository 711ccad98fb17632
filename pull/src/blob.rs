//! One blob into the cache: what is there of it is kept, the rest is fetched with `Range`, every byte is hashed on its way,
//! and the name is given only to what matches digest and size.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use d_common::digest::{Digest, Hasher};
use d_common::exit::{Exit, OrExit, exit_of, failure};
use d_common::fail;
use d_common::image::Descriptor;
use d_common::layout::{open_file, unopened};
use d_common::report::{Report, chain};
use reqwest::blocking::Response;
use reqwest::{StatusCode, Url, header};
use rustix::fs::OFlags;

use crate::cache::Cache;
use crate::growth::Growth;
use crate::http::{Http, Request, cut, shown, unexpected};
use crate::partial::Partial;
use crate::progress::{Bar, Progress};
use crate::registry::{Repository, agree, content_digest};
use crate::retry::{ATTEMPTS, Trouble, retry};

/// Bytes that are read at once; all that a download needs of memory, besides the HTTP client's own buffers.
const BUFFER: usize = 128 << 10;

/// What it takes to fetch the blobs of one image.
pub struct Fetcher<'a> {
    /// Where they go.
    pub cache: &'a Cache,
    /// Where they come from, the first choice first.
    pub sources: &'a [Repository<'a>],
    /// One that was needed already to find the image: its config.
    pub at_hand: Option<(&'a Digest, &'a [u8])>,
    /// For foreign layers; `None` when they are not wanted.
    pub foreign: Option<&'a Http>,
    /// Messages.
    pub report: Report,
    /// How far we are.
    pub progress: &'a Progress,
    /// Set when another blob has failed: there is no use in going on.
    pub cancelled: &'a AtomicBool,
}

/// Where a blob can be had.
enum Place<'a> {
    Registry(&'a Repository<'a>),
    Elsewhere(&'a Http, Url),
}

impl Place<'_> {
    fn name(&self) -> String {
        match self {
            Self::Registry(repository) => repository.source.name(),
            Self::Elsewhere(_, url) => shown(url),
        }
    }

    fn attempts(&self) -> u32 {
        match self {
            Self::Registry(repository) => repository.attempts(),
            Self::Elsewhere(..) => ATTEMPTS,
        }
    }

    fn get(&self, digest: &Digest, from: u64) -> Result<Response, Trouble> {
        match self {
            Self::Registry(repository) => repository.blob(digest, from),
            Self::Elsewhere(http, url) => {
                let request = Request { from: (from > 0).then_some(from), ..Request::get(url.clone()) };
                let response = http.send(&request)?;
                match response.status() {
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
                    _ => Err(unexpected(response)),
                }
            }
        }
    }
}

/// A blob in the making.
struct Download<'a> {
    blob: &'a Descriptor,
    partial: Partial,
    hasher: Hasher,
    buffer: Vec<u8>,
    /// What the registry says that its digest is by another algorithm.
    said: Option<Digest>,
    /// Whether bytes of different answers were put together: a wrong digest may then be the fault of the old ones.
    stitched: bool,
    /// The most that ever was there: who starts anew makes no progress before that.
    furthest: u64,
    bar: Bar,
    growth: Option<&'a Growth>,
}

impl Fetcher<'_> {
    /// Brings a blob into the cache, unless it is there. `growth` is told of each new byte, and of a good end; of a bad one by
    /// the caller, who keeps the reason first.
    ///
    /// # Errors
    /// [`Exit::Data`] when it is not what its descriptor says; what the registry and the network say; a full disk.
    pub fn fetch(&self, blob: &Descriptor, growth: Option<&Growth>) -> Result<()> {
        let outcome = self.fetch_unless_there(blob, growth);
        if let (Some(growth), Ok(())) = (growth, &outcome) {
            growth.finish(true);
        }
        outcome
    }

    fn fetch_unless_there(&self, blob: &Descriptor, growth: Option<&Growth>) -> Result<()> {
        if self.cache.has(blob) {
            return self.publish(blob, growth);
        }
        if let Some((_, bytes)) = self.at_hand.filter(|(digest, _)| **digest == blob.digest) {
            self.cache.put(&blob.digest, bytes)?;
            return self.publish(blob, growth);
        }
        if let Some(bytes) = embedded(blob)? {
            self.cache.put(&blob.digest, &bytes)?;
            return self.publish(blob, growth);
        }
        let waiting = || self.report.info(format_args!("waiting for another d-pull to fetch {}", blob.digest));
        let Some(partial) = Partial::open(self.cache, &blob.digest, blob.size, waiting)? else {
            return self.publish(blob, growth);
        };
        let mut download = Download::new(blob, partial, self.progress, growth)?;
        if let Err(error) = self.download(&mut download) {
            // What is wrong or empty is no use to the next run; the rest is.
            if exit_of(&error) == Exit::Data || download.partial.len == 0 {
                download.partial.discard();
            }
            return Err(error);
        }
        download.bar.finish();
        download.partial.commit()
    }

    fn publish(&self, blob: &Descriptor, growth: Option<&Growth>) -> Result<()> {
        let Some(growth) = growth else { return Ok(()) };
        let path = self.cache.layout.blob_path(&blob.digest);
        let file = open_file(&path, OFlags::empty()).map_err(|e| unopened(e, &path))?;
        growth.publish(file, blob.size);
        Ok(())
    }

    /// Asks one source after the other until the blob is whole and right.
    fn download(&self, download: &mut Download<'_>) -> Result<()> {
        let sources = self.sources.iter().filter(|source| !source.is_given_up());
        let mut places: Vec<Place<'_>> = sources.map(Place::Registry).collect();
        if let Some(http) = self.foreign {
            let urls = download.blob.urls.iter().filter_map(|u| Url::parse(u).ok());
            places.extend(urls.filter(|u| matches!(u.scheme(), "http" | "https")).map(|u| Place::Elsewhere(http, u)));
        }
        let mut last_error = None;
        for place in &places {
            if let Some(error) = last_error.take() {
                self.report.info(format_args!("{}; trying the next source", chain(&error)));
            }
            let Descriptor { digest, size, .. } = download.blob;
            self.report.info(format_args!("fetching blob {digest}, {size} bytes, from {}", place.name()));
            match self.download_from(place, download) {
                Ok(()) => return Ok(()),
                // A full disk is full for every source.
                Err(error) if exit_of(&error) == Exit::CantCreate || self.is_cancelled() => return Err(error),
                Err(error) => {
                    if let (Place::Registry(source), Exit::TryAgain) = (place, exit_of(&error)) {
                        source.give_up();
                    }
                    last_error = Some(error);
                }
            }
        }
        let error = last_error.unwrap_or_else(|| failure(Exit::NotFound, "there is nowhere to fetch it from"));
        Err(error.context(format!("cannot fetch blob {}", download.blob.digest)))
    }

    fn download_from(&self, place: &Place<'_>, download: &mut Download<'_>) -> Result<()> {
        loop {
            retry(self.report, place.attempts(), || {
                if self.is_cancelled() {
                    return Err(failure(Exit::TryAgain, "given up, since another blob failed").into());
                }
                download.attempt(place, self.cancelled)
            })?;
            let found = download.hasher.clone().finish();
            if found == download.blob.digest {
                return download.check_said();
            }
            let stitched = download.stitched;
            download.restart()?;
            if !stitched {
                fail!(Exit::Data, "digest mismatch: the registry sends {found}");
            }
            self.report
                .info(format_args!("blob {} does not fit what was there of it; starting anew", download.blob.digest));
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl<'a> Download<'a> {
    fn new(
        blob: &'a Descriptor,
        mut partial: Partial,
        progress: &Progress,
        growth: Option<&'a Growth>,
    ) -> Result<Self> {
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut buffer = vec![0; BUFFER];
        partial.hash_into(&mut hasher, &mut buffer)?;
        if let Some(growth) = growth {
            growth.publish(partial.reader()?, partial.len);
        }
        let bar = progress.bar(&blob.digest, blob.size, partial.len);
        Ok(Self {
            blob,
            said: None,
            stitched: partial.len > 0,
            furthest: partial.len,
            partial,
            hasher,
            buffer,
            bar,
            growth,
        })
    }

    fn restart(&mut self) -> Result<()> {
        self.partial.restart()?;
        self.hasher = Hasher::new(self.blob.digest.algorithm());
        self.stitched = false;
        self.grown();
        Ok(())
    }

    /// Reads the whole blob once more, if the registry gave it a digest of another algorithm, which hardly any does.
    fn check_said(&mut self) -> Result<()> {
        let Some(said) = self.said.take() else { return Ok(()) };
        let mut hasher = Hasher::new(said.algorithm());
        self.partial.hash_into(&mut hasher, &mut self.buffer)?;
        agree(&said, &hasher.finish())
    }

    fn grown(&self) {
        self.bar.at(self.partial.len);
        if let Some(growth) = self.growth {
            growth.advance(self.partial.len);
        }
    }

    /// One request for what is missing.
    fn attempt(&mut self, place: &Place<'_>, cancelled: &AtomicBool) -> Result<(), Trouble> {
        let size = self.blob.size;
        if self.partial.len == size {
            return Ok(());
        }
        let mut response = place.get(&self.blob.digest, self.partial.len)?;
        if self.partial.len > 0 {
            match continues(&response, self.partial.len) {
                Continues::Yes => self.stitched = true,
                Continues::FromStart => self.restart()?,
                Continues::No => {
                    self.restart()?;
                    response = place.get(&self.blob.digest, 0)?;
                }
            }
        }
        // Without a Range in the request, anything but the whole is a breach of protocol (RFC 9110, 15.3.7).
        if self.partial.len == 0 && response.status() != StatusCode::OK {
            let message = format!("{} answers {} to a plain GET", shown(response.url()), response.status());
            return Err(failure(Exit::Protocol, message).into());
        }
        if let Place::Registry(_) = place {
            self.said = content_digest(&response)?.filter(|d| d.algorithm() != self.blob.digest.algorithm());
        }
        let expected = size - self.partial.len;
        if let Some(length) = content_length(&response) {
            // A 206 may hold less than was asked for.
            if length > expected || length < expected && response.status() == StatusCode::OK {
                return Err(self.wrong_size(self.partial.len + length).into());
            }
        }
        self.read(response, cancelled)
    }

    fn read(&mut self, mut response: Response, cancelled: &AtomicBool) -> Result<(), Trouble> {
        let url = response.url().clone();
        let chunked = response.headers().contains_key(header::TRANSFER_ENCODING);
        let before = self.furthest;
        loop {
            let outcome = response.read(&mut self.buffer);
            let whole = self.partial.len == self.blob.size;
            self.furthest = self.furthest.max(self.partial.len);
            let progress = self.furthest > before;
            match outcome {
                Ok(0) if whole => return Ok(()),
                // All bytes are here; what the connection does after them is no matter.
                Err(_) if whole => return Ok(()),
                // The end of a chunked body is no accident.
                Ok(0) if chunked => return Err(self.wrong_size(self.partial.len).into()),
                Ok(0) => {
                    let early = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Err(cut(early, &url, progress));
                }
                Ok(n) if self.partial.len + n as u64 > self.blob.size => {
                    return Err(self.wrong_size(self.partial.len + n as u64).into());
                }
                Ok(n) => {
                    self.partial.append(&self.buffer[..n])?;
                    self.hasher.update(&self.buffer[..n]);
                    self.grown();
                }
                Err(error) => return Err(cut(error, &url, progress)),
            }
            if cancelled.load(Ordering::Relaxed) {
                return Err(failure(Exit::TryAgain, "given up, since another blob failed").into());
            }
        }
    }

    /// The error of a body that cannot be the blob; what there is of it is worthless.
    fn wrong_size(&mut self, found: u64) -> Error {
        let than = if found > self.blob.size { "longer" } else { "shorter" };
        match self.restart() {
            Ok(()) => failure(
                Exit::Data,
                format!("the registry sends {found} bytes, {than} than the {} announced", self.blob.size),
            ),
            Err(error) => error,
        }
    }
}

/// How an answer fits the bytes that are there.
#[derive(Debug, PartialEq, Eq)]
enum Continues {
    Yes,
    FromStart,
    No,
}

fn continues(response: &Response, from: u64) -> Continues {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    match response.status() {
        StatusCode::OK => Continues::FromStart,
        StatusCode::PARTIAL_CONTENT if range.and_then(range_start) == Some(from) => Continues::Yes,
        _ => Continues::No,
    }
}

/// The first position of `Content-Range: bytes FIRST-LAST/TOTAL` (RFC 9110, 14.4).
fn range_start(value: &str) -> Option<u64> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let fits = total.trim() == "*" || total.trim().parse::<u64>().ok()? > last;
    (first <= last && fits).then_some(first)
}

/// Not reqwest's own, which is the length of what is decoded.
fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The content that a descriptor carries along (descriptor.md, "Embedded Content"), checked.
///
/// # Errors
/// [`Exit::Data`] when it is something else.
pub fn embedded(blob: &Descriptor) -> Result<Option<Vec<u8>>> {
    if blob.size == 0 && Digest::with(blob.digest.algorithm(), b"") == blob.digest {
        return Ok(Some(Vec::new()));
    }
    let Some(data) = blob.data.as_deref().filter(|d| !d.is_empty()) else { return Ok(None) };
    let bytes =
        BASE64_STANDARD.decode(data).or_exit(Exit::Data, || format!("the data of {} is no base64", blob.digest))?;
    check(blob, &bytes)?;
    Ok(Some(bytes))
}

/// Checks bytes against their descriptor.
///
/// # Errors
/// [`Exit::Data`].
pub fn check(blob: &Descriptor, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 != blob.size {
        fail!(Exit::Data, "{} has {} bytes, its descriptor says {}", blob.digest, bytes.len(), blob.size);
    }
    let found = Digest::with(blob.digest.algorithm(), bytes);
    if found != blob.digest {
        fail!(Exit::Data, "digest mismatch: {} is in truth {found}", blob.digest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 0-0/*"), Some(0));
        for bad in
            ["", "bytes */10", "bytes 9-5/10", "bytes 5-9/9", "bytes 5-/10", "items 5-9/10", "5-9/10", "bytes=5-9/10"]
        {
            assert_eq!(range_start(bad), None, "{bad}");
        }
    }

    #[test]
    fn embedded_data_is_checked() {
        let mut blob = Descriptor {
            media_type: String::new(),
            digest: Digest::of(b"hi"),
            size: 2,
            urls: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            data: Some("aGk=".into()),
            platform: None,
            artifact_type: None,
        };
        assert_eq!(embedded(&blob).unwrap().unwrap(), b"hi");
        for bad in ["aGkK", "aG8=", "?"] {
            blob.data = Some(bad.into());
            assert!(embedded(&blob).is_err(), "{bad}");
        }
        blob.data = None;
        assert_eq!(embedded(&blob).unwrap(), None);
        let empty = Descriptor { digest: Digest::of(b""), size: 0, ..blob };
        assert_eq!(embedded(&empty).unwrap().unwrap(), b"");
    }
}
