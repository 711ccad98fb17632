//! What an archive is packed with, recognised by its first bytes and never by a name or a media type.

use std::fmt;
use std::io::{self, BufRead, Read};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;

/// The largest window of a zstd frame or an xz block, as a power of two, in bytes: what `zstd --ultra -22` and `zstd --long`
/// write, and zstd(1) reads without being asked; twice that of `xz -9`.
const WINDOW_LOG: u32 = 27;

/// The largest window of a layer that is read beside others, in bytes: that of `zstd -19`.
const SMALL_WINDOW: u64 = 8 << 20;

/// How much of an archive [`Compression::has_large_window`] wants to see, in bytes: the longest header of a zstd frame.
pub const START: u64 = 18;

/// The most memory an xz stream may need, in KiB: its window and a little.
const XZ_MEMORY_KIB: u32 = (1 << (WINDOW_LOG - 10)) + 1024;

/// Known compressions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// None.
    Plain,
    /// RFC 1952, any number of members.
    Gzip,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// What content that starts so is packed with; the error is the name of one that is not read here.
    ///
    /// # Errors
    /// The name of a compression that is known but not supported.
    pub fn recognise(start: &[u8]) -> Result<Self, &'static str> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or a skippable one (zstd:chunked and pzstd start with those).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0x1f, 0x9d, ..] => return Err("compress (.Z)"),
            [b'L', b'Z', b'I', b'P', ..] => return Err("lzip"),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err("lz4"),
            [0x89, b'L', b'Z', b'O', ..] => return Err("lzop"),
            [b'7', b'z', 0xbc, 0xaf, ..] => return Err("7z"),
            _ => Self::Plain,
        })
    }

    /// Whether the decoder of what starts so holds a large window, up to 128 MiB, as its packer chose; the others need 8 MiB
    /// at most. Of zstd the first frame speaks for all.
    pub fn has_large_window(start: &[u8]) -> bool {
        match Self::recognise(start) {
            Ok(Self::Xz) => true,
            Ok(Self::Zstd) => zstd_window(start).is_none_or(|window| window > SMALL_WINDOW),
            _ => false,
        }
    }

    /// A reader of what `input` packs.
    ///
    /// # Errors
    /// Those of the decoder's start.
    pub fn decoder<'a>(self, input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        if self == Self::Plain {
            return Ok(Box::new(input));
        }
        // Behind one type, or the program would hold every decoder once for each kind of input.
        let input: Box<dyn BufRead + Send + 'a> = Box::new(input);
        Ok(match self {
            Self::Plain => Box::new(input),
            Self::Gzip => {
                let start = |input| Ok(flate2::bufread::GzDecoder::new(input));
                Box::new(Members::new(input, start, flate2::bufread::GzDecoder::into_inner)?)
            }
            Self::Bzip2 => {
                let start = |input| Ok(bzip2::bufread::BzDecoder::new(input));
                Box::new(Members::new(input, start, bzip2::bufread::BzDecoder::into_inner)?)
            }
            Self::Xz => Box::new(Windowed(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB))),
            Self::Zstd => {
                let start = |input| {
                    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                    decoder.window_log_max(WINDOW_LOG)?;
                    Ok(decoder)
                };
                Box::new(Windowed(Members::new(input, start, zstd::stream::read::Decoder::finish)?))
            }
        })
    }
}

/// The window of a zstd frame, in bytes, from the start of its header (RFC 8878, 3.1.1.1).
fn zstd_window(start: &[u8]) -> Option<u64> {
    let (magic, header) = start.split_at_checked(4)?;
    let (descriptor, fields) = header.split_first().filter(|_| magic == [0x28, 0xb5, 0x2f, 0xfd])?;
    if descriptor & 0x20 == 0 {
        let window = *fields.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // A single segment: as large as the content, whose size follows the dictionary's id.
    let fields = fields.get([0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
    let size = fields.get(..1 << (descriptor >> 6))?;
    let number = size.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Some(if size.len() == 2 { number + 256 } else { number })
}

/// A decoder with a window; the error of one that is too large says what to do about it.
struct Windowed<R>(R);

impl<R: Read> Read for Windowed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| {
            let text = error.to_string();
            // libzstd's words, and lzma-rust2's.
            if text.contains("requires too much memory") || text.contains("mem_limit_kb") {
                let mib = 1 << (WINDOW_LOG - 20);
                return io::Error::other(format!(
                    "its window is larger than {mib} MiB; pack it again with a smaller one"
                ));
            }
            error
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "no compression",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

/// Members (streams, frames) behind each other, and zeroes behind the last: the padding of a tape, which gzip(1) and tar(1)
/// pass over, too.
struct Members<R, D> {
    current: Option<D>,
    start: fn(R) -> io::Result<D>,
    end: fn(D) -> R,
}

impl<R: BufRead, D: Read> Members<R, D> {
    fn new(input: R, start: fn(R) -> io::Result<D>, end: fn(D) -> R) -> io::Result<Self> {
        Ok(Self { current: Some(start(input)?), start, end })
    }
}

impl<R: BufRead, D: Read> Read for Members<R, D> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.current
            && !out.is_empty()
        {
            let len = decoder.read(out)?;
            if len > 0 {
                return Ok(len);
            }
            let input = self.current.take().map(self.end);
            if let Some(mut input) = input
                && !is_at_end(&mut input)?
            {
                self.current = Some((self.start)(input)?);
            }
        }
        Ok(0)
    }
}

/// Whether nothing follows, or nothing but zeroes, which are passed over.
fn is_at_end(input: &mut impl BufRead) -> io::Result<bool> {
    let mut is_padding = false;
    loop {
        let bytes = input.fill_buf()?;
        let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
        match bytes.len() - zeroes {
            _ if bytes.is_empty() => return Ok(true),
            0 => {}
            _ if !is_padding && zeroes == 0 => return Ok(false),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "garbage behind its end")),
        }
        is_padding = true;
        input.consume(zeroes);
    }
}

/// What `input` is packed with, and a reader of the content.
///
/// # Errors
/// [`Exit::Data`] when it is packed with something that is not read here; read errors.
pub fn unpacked<'a>(mut input: impl BufRead + Send + 'a) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let start = input.fill_buf().map_err(crate::carried::reading)?;
    match Compression::recognise(start) {
        Ok(compression) => {
            let decoder = compression.decoder(input).or_exit(Exit::Data, || format!("cannot read {compression}"))?;
            Ok((compression, decoder))
        }
        Err(name) => fail!(Exit::Data, "packed with {name}, which is not supported; unpack it first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &[u8] = b"the same text in every coat";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        w.write_all(bytes).unwrap();
        w.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        unpacked(bytes).unwrap().1.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let (a, b) = TEXT.split_at(10);
        assert_eq!(read(&[gzip(a), gzip(b)].concat()).unwrap(), TEXT);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec();
        assert_eq!(read(&[skippable, zstd(a), zstd(b)].concat()).unwrap(), TEXT);
        assert_eq!(read(TEXT).unwrap(), TEXT);
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut w = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        w.write_all(bytes).unwrap();
        w.finish().unwrap()
    }

    #[test]
    fn large_windows_are_seen_in_the_first_frame() {
        let packed = |size: usize, level, window| {
            let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
            encoder.window_log(window).unwrap();
            encoder.set_pledged_src_size(Some(size as u64)).unwrap();
            encoder.include_contentsize(true).unwrap();
            encoder.write_all(&vec![7; size]).unwrap();
            encoder.finish().unwrap()
        };
        for (bytes, window) in [
            (packed(3, 1, 20), 3),
            (packed(255, 1, 20), 255),
            (packed(300, 1, 20), 300),
            (packed(70_000, 1, 20), 70_000),
            (packed(3 << 20, 1, 20), 1 << 20),
            (packed(3 << 20, 1, 21), 2 << 20),
        ] {
            assert_eq!(zstd_window(&bytes[..18.min(bytes.len())]), Some(window));
            assert!(!Compression::has_large_window(&bytes));
        }
        assert!(Compression::has_large_window(b"\x28\xb5\x2f\xfd\x00\x88"), "128 MiB");
        assert!(Compression::has_large_window(b"\xfd7zXZ\0"));
        assert!(Compression::has_large_window(b"\x50\x2a\x4d\x18\x02\0\0\0xx"), "a skippable frame tells nothing");
        assert!(!Compression::has_large_window(&gzip(TEXT)) && !Compression::has_large_window(b""));
    }

    #[test]
    fn windows_that_are_too_large_are_told() {
        // A frame header without a content size: windows of 128 and of 256 MiB; an empty last block.
        for (descriptor, is_read) in [(17 << 3, true), (18 << 3, false)] {
            let frame = [&b"\x28\xb5\x2f\xfd\x00"[..], &[descriptor], &[1, 0, 0]].concat();
            match read(&frame) {
                Ok(content) => assert!(is_read && content.is_empty()),
                Err(error) => assert!(!is_read && error.to_string().contains("128 MiB"), "{error}"),
            }
        }
    }

    #[test]
    fn torn_and_trailing_bytes_are_errors() {
        for packed in [gzip(TEXT), bzip2(TEXT), zstd::encode_all(TEXT, 1).unwrap()] {
            assert!(read(&packed[..packed.len() - 1]).is_err());
            assert!(read(&[&packed[..], b"garbage"].concat()).is_err());
            assert_eq!(read(&[&packed[..], &[0; 70_000]].concat()).unwrap(), TEXT);
            assert!(read(&[&packed[..], &[0; 512], &packed[..]].concat()).is_err());
        }
        assert!(unpacked(&b"LZIP\x01"[..]).is_err());
    }
}
