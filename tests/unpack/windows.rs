//! A zstd frame made by hand, one block of which looks into every page of half of the largest window.

use d_tests::tar::{Entry as E, tar};
use d_tests::{Scratch, have, skip};

use crate::hostile::MOST;

/// The window, in bytes, and what it is filled with by blocks of as many bytes as a block may have.
const WINDOW: usize = 128 << 20;
const BLOCK: usize = 128 << 10;
/// The sequences of the last block. Each takes 26 bits, and copies three bytes.
const SEQUENCES: usize = 30_000;

/// Appends a block (RFC 8878, 3.1.1.2): raw 0, run 1, compressed 2; `size` is what its header tells.
fn block(frame: &mut Vec<u8>, kind: usize, size: usize, content: &[u8]) {
    frame.extend(&(size << 3 | kind << 1).to_le_bytes()[..3]);
    frame.extend(content);
}

/// A compressed block without literals, whose sequences copy from all pages of the window's older half.
fn looks_everywhere() -> Vec<u8> {
    // Literals: raw, none. Then how many sequences, and for each of the three codes that it is always the same: no literals,
    // an offset with 26 more bits, a match of 3 bytes.
    let mut block = vec![0, (SEQUENCES >> 8) as u8 + 128, SEQUENCES as u8, 0b0101_0100, 0, 26, 0];
    // The bits are read from the end: a one, then the offsets, the first one first.
    let offsets = (0..SEQUENCES).map(|n| (n * 7919 % (WINDOW / 4096 / 2)) * 4096 + 3);
    let bits = std::iter::once(true).chain(offsets.flat_map(|more| (0..26).rev().map(move |bit| more >> bit & 1 == 1)));
    let bits: Vec<bool> = bits.collect::<Vec<_>>().into_iter().rev().collect();
    block.extend(bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << n)));
    block
}

#[test]
fn a_block_that_looks_everywhere_stays_within_bounds() {
    if !have("time") {
        return skip("no /usr/bin/time");
    }
    let scratch = Scratch::new();
    let size = WINDOW + 3 * SEQUENCES;
    let header = &tar([E::file("big", vec![b'a'; size])])[..512];
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
    block(&mut frame, 0, 512, header);
    for _ in 0..WINDOW / BLOCK {
        block(&mut frame, 1, BLOCK, b"a");
    }
    let far = looks_everywhere();
    block(&mut frame, 2, far.len(), &far);
    let end = vec![0; size.next_multiple_of(512) - size + 1024];
    block(&mut frame, 0, end.len(), &end);
    // The last one, and empty.
    frame.extend([1, 0, 0]);
    scratch.write("far.tar.zst", &frame);
    let done = scratch.run(["/usr/bin/time", "-f", "%M", "d-unpack", "-q", "far.tar.zst", "c"]).ok();
    let peak: u64 = done.err().lines().last().unwrap().parse().unwrap();
    assert!(peak <= MOST, "{peak} KiB");
    scratch.sh("tr -d a < c/rootfs/big | wc -c; wc -c < c/rootfs/big").ok().prints(&format!("0\n{size}"));
}
