//! Random stacks of layers give the same tree by the way that leaves files out, through the pipe in order, and by umoci.
//!
//! The generator knows few names, so that layers meet each other: links as parents, replaced parents, whiteouts, hard links
//! across layers. Stacks that are no valid image (a hard link to nothing, a file as a parent) must be refused by all.

use d_tests::image::Image;
use d_tests::tar::{Entry as E, tar};
use d_tests::{Scratch, have};

use crate::layers::seen;
use crate::tree;

/// A xorshift generator: the same stacks in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "c"];
        let depth = 1 + self.below(3);
        (0..depth).map(|_| names[usize::try_from(self.below(3)).unwrap()]).collect::<Vec<_>>().join("/")
    }

    fn entry(&mut self, salt: u64) -> E {
        let path = self.path();
        let (dir, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(dir, name)| (dir, name));
        let beside = |file: &str| if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") };
        match self.below(12) {
            0..4 => E::dir(&path).mode(if self.below(2) == 0 { 0o755 } else { 0o711 }),
            4..7 => E::file(&path, format!("{salt}")),
            7 => E::symlink(&path, ["a", "b", "/a/b", "../c", "c"][usize::try_from(self.below(5)).unwrap()]),
            8 => E::hard_link(&path, self.path()),
            9 | 10 => E::file(beside(&format!(".wh.{name}")), ""),
            _ => E::file(beside(".wh..wh..opq"), ""),
        }
    }

    fn stack(&mut self) -> Image {
        let layers = 1 + self.below(4);
        let mut salt = 0;
        (0..layers).fold(Image::new(), |image, _| {
            let entries = 1 + self.below(7);
            image.layer(tar((0..entries).map(|_| {
                salt += 1;
                self.entry(salt)
            })))
        })
    }
}

#[test]
fn all_ways_agree_on_random_stacks() {
    let scratch = Scratch::new();
    let (mut valid, mut refused, mut overlays) = (0, 0, true);
    for seed in 1..=160u64 {
        let image = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).stack();
        let manifest = image.write(&scratch.join("image"));
        let fast = scratch.run(["d-unpack", "-q", "--map=single"]).arg(&manifest).arg("fast").done();
        let piped = scratch.run(["d-unpack", "-q", "--map=single", "-", "piped"]).stdin(image.archive()).done();
        if piped.code() == 0 {
            fast.expect(fast.code() == 0, &format!("seed {seed} is valid"));
            assert_eq!(tree(&scratch, "fast"), tree(&scratch, "piped"), "seed {seed}");
            valid += 1;
        } else {
            piped.expect(piped.code() == 65, &format!("seed {seed} is refused"));
            fast.expect(fast.code() == 65, &format!("seed {seed} is refused by the other way, too"));
            refused += 1;
        }
        if piped.code() == 0 && overlays && seed % 2 == 0 {
            scratch.run(["d-unpack", "-q", "--map=single", "--layers"]).arg(&manifest).arg("layers").ok();
            let (layers, can) = seen(&scratch, "layers");
            overlays = can;
            assert!(
                !can || layers == seen(&scratch, "piped").0,
                "seed {seed}: {layers}\nby --layers, and plain\n{}",
                seen(&scratch, "piped").0
            );
        }
        if piped.code() == 0 && have("umoci") && seed % 4 == 0 {
            let done = scratch.run(["umoci", "unpack", "--rootless", "--image", "image:latest", "umoci"]).done();
            if done.code() == 0 {
                assert_eq!(tree(&scratch, "piped"), tree(&scratch, "umoci"), "seed {seed} by umoci");
            }
        }
        scratch
            .sh("chmod -R u+rwx fast piped umoci layers 2>/dev/null || :; rm -rf fast piped umoci image layers mnt")
            .ok();
    }
    if !overlays {
        d_tests::skip("no overlay in a user namespace here");
    }
    assert!(valid > 30 && refused > 10, "{valid} valid and {refused} refused stacks say little");
}
