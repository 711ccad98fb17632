//! What the mutations start from: archives with something of everything, as tar(1), zip(1) and the packers write them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A tree with something of everything, in every format of tar; sparse and long names included.
const TARS: &str = "
    mkdir -p t/d/e; echo 1 > t/d/f; ln t/d/f t/h; ln -s d t/l; ln -s ../../canary t/up; mkfifo t/p; truncate -s 50K t/sparse
    printf x >> t/sparse; mkdir t/$(printf 'n%.0s' $(seq 150)); : > t/.wh.f; : > t/d/.wh..wh..opq; : > t/l.wh
    for format in ustar gnu posix v7; do tar -C t -S --format=$format -cf $format.tar . 2>/dev/null || :; done
    for v in 0.0 0.1 1.0; do tar -C t -S --format=posix --sparse-version=$v -cf $v.tar sparse d/f; done
    tar -C t --format=posix --pax-option=mtime:=-1.5,SCHILY.xattr.user.a:=b -cf pax.tar d l h
    (cd t && zip -qyr ../z.zip d l) 2>/dev/null || :";

/// The same packed, and the start of an image's archive.
const PACKED: &str = "
    mkdir -p i/blobs/sha256; echo '{}' > i/index.json; echo '{}' > i/oci-layout; tar -C i -cf image.tar .
    for tar in pax.tar image.tar; do gzip -k $tar; bzip2 -k $tar; xz -k $tar; zstd -q $tar; done; cat pax.tar.gz pax.tar.gz > two.gz";

/// Archives as they are.
pub(crate) fn plain(dir: &Path) -> Vec<Vec<u8>> {
    made(dir, TARS)
}

/// Archives as they are, and packed.
pub(crate) fn packed(dir: &Path) -> Vec<Vec<u8>> {
    made(dir, &[TARS, PACKED].concat())
}

fn made(dir: &Path, script: &str) -> Vec<Vec<u8>> {
    let done = Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap();
    assert!(done.success());
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    names.sort();
    names.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Writes the right checksum into whatever looks like a header.
pub(crate) fn repair(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512).filter(|b| b.iter().any(|byte| *byte != 0)) {
        if block[257..262] == *b"ustar" || block[100..107].iter().all(u8::is_ascii_digit) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
