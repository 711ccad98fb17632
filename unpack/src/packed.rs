//! An entry as bytes, to be read again by the same run: numbers of eight bytes, and strings with their length in front.

use crate::tar::{Entry, Kind, Sparse, Time};

/// All kinds; one is written as its place among them.
const KINDS: [Kind; 6] = [Kind::File, Kind::HardLink, Kind::Symlink, Kind::Directory, Kind::Fifo, Kind::Device];

/// What `entry` says, but for its path.
pub fn pack(entry: &Entry) -> Vec<u8> {
    let kind = KINDS.iter().position(|kind| *kind == entry.kind).unwrap_or_default();
    let (mode, uid, gid) = (entry.mode.into(), entry.uid.into(), entry.gid.into());
    let (seconds, nanoseconds) = (entry.mtime.seconds.cast_unsigned(), entry.mtime.nanoseconds.into());
    let mut out = Vec::new();
    let mut number = |number: u64| out.extend(number.to_ne_bytes());
    [kind as u64, mode, uid, gid, seconds, nanoseconds, entry.size].into_iter().for_each(&mut number);
    number(entry.sparse.is_some().into());
    if let Some(sparse) = &entry.sparse {
        number(sparse.real_size);
        number(sparse.extents.len() as u64);
        for (offset, len) in &sparse.extents {
            number(*offset);
            number(*len);
        }
    }
    number(entry.xattrs.len() as u64);
    let mut string = |string: &[u8]| {
        out.extend((string.len() as u64).to_ne_bytes());
        out.extend(string);
    };
    string(&entry.link);
    for (name, value) in &entry.xattrs {
        string(name);
        string(value);
    }
    out
}

/// The entry, without a path; `None` for anything that [`pack`] did not write.
pub fn unpack(mut bytes: &[u8]) -> Option<Entry> {
    let bytes = &mut bytes;
    let kind = *KINDS.get(usize::try_from(number(bytes)?).ok()?)?;
    let [mode, uid, gid] = [short(bytes)?, short(bytes)?, short(bytes)?];
    let mtime = Time { seconds: number(bytes)?.cast_signed(), nanoseconds: short(bytes)? };
    let size = number(bytes)?;
    let sparse = if number(bytes)? > 0 {
        let (real_size, count) = (number(bytes)?, number(bytes)?);
        let extents = (0..count).map(|_| Some((number(bytes)?, number(bytes)?))).collect::<Option<_>>()?;
        Some(Sparse { extents, real_size })
    } else {
        None
    };
    let count = number(bytes)?;
    let link = string(bytes)?;
    let xattrs = (0..count).map(|_| Some((string(bytes)?, string(bytes)?))).collect::<Option<_>>()?;
    Some(Entry { path: Vec::new(), link, kind, mode, uid, gid, mtime, size, xattrs, sparse })
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_ne_bytes(*number))
}

fn short(bytes: &mut &[u8]) -> Option<u32> {
    u32::try_from(number(bytes)?).ok()
}

fn string(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let len = usize::try_from(number(bytes)?).ok()?;
    let (string, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(string.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were() {
        for (n, kind) in KINDS.into_iter().enumerate() {
            let sparse = (n % 2 > 0).then(|| Sparse { extents: vec![(512, 7), (1024, 5)], real_size: 9000 });
            let entry = Entry {
                path: Vec::new(),
                link: b"a/\xff".to_vec(),
                kind,
                mode: 0o4755,
                uid: u32::MAX,
                gid: 3,
                mtime: Time { seconds: -1, nanoseconds: 999_999_999 },
                size: u64::MAX,
                xattrs: vec![(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"\0".to_vec())],
                sparse,
            };
            let bytes = pack(&entry);
            assert_eq!(unpack(&bytes).as_ref(), Some(&entry));
            assert!(unpack(&bytes[..bytes.len() - 1]).is_none() && unpack(&[0xff; 100]).is_none());
        }
    }
}
