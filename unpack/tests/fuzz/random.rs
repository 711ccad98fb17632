//! Chance, the same in every run: bytes changed with an eye for what a tar archive is made of.

use super::seeds::repair;

/// Words that paths and records trip over.
const WORDS: [&[u8]; 14] = [
    b"../",
    b"/",
    b"./",
    b".wh.",
    b".wh..wh..opq",
    b".wh..wh.",
    b"..",
    b"\0",
    b"\xff\xff\xff\xff",
    b"99999",
    b"a/b",
    b"\n",
    b"=",
    b" ",
];

/// Keys that PAX records have.
const KEYS: [&str; 14] = [
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "GNU.sparse.name",
    "GNU.sparse.major",
    "GNU.sparse.realsize",
    "GNU.sparse.map",
    "GNU.sparse.offset",
    "SCHILY.xattr.user.a",
    "LIBARCHIVE.xattr.user.%61",
    "comment",
];

/// A xorshift generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `n`; 0 for 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % n.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn word(&mut self) -> &'static [u8] {
        WORDS[self.below(WORDS.len())]
    }

    /// A path of words, letters and bytes; now and then one that is too long.
    pub(crate) fn path(&mut self) -> Vec<u8> {
        let mut path = Vec::new();
        for _ in 0..self.below(8) {
            match self.below(6) {
                0 => path.push(self.byte()),
                1 | 2 => path.push(b"abc"[self.below(3)]),
                _ => path.extend_from_slice(self.word()),
            }
        }
        let times = if self.below(50) == 0 { 1000 } else { 1 };
        path.repeat(times)
    }

    /// PAX records, most of them sound, some damaged.
    pub(crate) fn records(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(5) {
            let value = match self.below(4) {
                0 => self.path(),
                1 => self.below(usize::MAX).to_string().into_bytes(),
                2 => format!("-{}.{}", self.below(10), self.below(usize::MAX)).into_bytes(),
                _ => b"1,2,3".to_vec(),
            };
            let body = [KEYS[self.below(KEYS.len())].as_bytes(), b"=", &value, b"\n"].concat();
            let mut length = body.len() + 2;
            while length != body.len() + 1 + length.to_string().len() {
                length = body.len() + 1 + length.to_string().len();
            }
            bytes.extend([length.to_string().as_bytes(), b" ", &body].concat());
        }
        if self.below(3) == 0 && !bytes.is_empty() {
            let at = self.below(bytes.len());
            match self.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = self.byte(),
                _ => bytes.extend([0; 7]),
            }
        }
        bytes
    }

    /// Changes bytes, moves blocks, cuts, and repairs the checksums of most headers, so that the changes are looked at.
    pub(crate) fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes.truncate(at),
                1 | 2 => {
                    let (from, to) = (self.below(bytes.len() / 512) * 512, self.below(bytes.len() / 512) * 512);
                    if from + 512 <= bytes.len() && to + 512 <= bytes.len() {
                        bytes.copy_within(from..from + 512, to);
                    }
                }
                3 => {
                    let word = self.word();
                    for (target, byte) in bytes[at..].iter_mut().zip(word) {
                        *target = *byte;
                    }
                }
                4 => {
                    // A type flag.
                    let kinds = b"01234567xgLKSVDA\0";
                    if let Some(kind) = bytes.get_mut(at / 512 * 512 + 156) {
                        *kind = kinds[self.below(kinds.len())];
                    }
                }
                _ => bytes[at] = self.byte(),
            }
            if bytes.is_empty() {
                return bytes;
            }
        }
        if self.below(8) > 0 {
            repair(&mut bytes);
        }
        bytes
    }
}
