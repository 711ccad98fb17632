//! Lock files: lines `REF PLATFORM DIGEST`, which pin images (`--write-lock`, `--locked`). `--list` prints the same lines.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use d_common::digest::Digest;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use d_common::layout::{MAX_JSON, read_bounded};
use d_common::platform::Platform;

use crate::reference::Reference;
use crate::target::Target;

/// A pinned image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its name.
    pub reference: Reference,
    /// What it runs on.
    pub platform: Platform,
    /// Its manifest.
    pub digest: Digest,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.reference, self.platform, self.digest)
    }
}

/// Reads the lines of a lock file; empty ones and `#` comments are passed over.
///
/// # Errors
/// [`Exit::Data`] with the number of the first line that is none.
pub fn parse(text: &str, file: &str) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [reference, platform, digest] = words.as_slice() else {
            fail!(Exit::Data, "{file}:{number}: expected REF PLATFORM DIGEST");
        };
        let step = || format!("{file}:{number}");
        pins.push(Pin {
            reference: reference.parse().or_exit(Exit::Data, step)?,
            platform: platform.parse().or_exit(Exit::Data, step)?,
            digest: digest.parse().or_exit(Exit::Data, step)?,
        });
    }
    Ok(pins)
}

/// Reads a lock file.
///
/// # Errors
/// [`Exit::NotFound`] if there is none, [`Exit::Data`] if it is broken.
pub fn read(path: &Path) -> Result<Vec<Pin>> {
    let file = File::open(path).or_exit(Exit::NotFound, || format!("cannot open {}", path.display()))?;
    let bytes = read_bounded(file, MAX_JSON).or_exit(Exit::Data, || format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).or_exit(Exit::Data, || format!("{} is no text", path.display()))?;
    parse(&text, &path.display().to_string())
}

/// The pin for an image: that for `platform` if it was asked for; else the host's, or the only one.
pub fn choose<'a>(pins: &'a [Pin], reference: &Reference, platform: Option<&Platform>) -> Option<&'a Pin> {
    let mut of_image = pins.iter().filter(|p| p.reference == *reference);
    let on = |wanted: &Platform| of_image.clone().find(|p| p.platform == *wanted);
    match platform {
        Some(platform) => on(platform),
        None => on(&Platform::host().normal()).or_else(|| {
            let first = of_image.next()?;
            of_image.next().is_none().then_some(first)
        }),
    }
}

/// Writes a lock file, but not if it says the same already: make(1) looks at its time.
///
/// # Errors
/// [`Exit::CantCreate`].
pub fn write(path: &Path, pins: &[Pin]) -> Result<()> {
    let mut text = String::new();
    for (i, pin) in pins.iter().enumerate() {
        if !pins[..i].contains(pin) {
            text += &format!("{pin}\n");
        }
    }
    // To read a pipe would be to wait for what only we can write.
    let is_file = fs::metadata(path).is_ok_and(|m| m.is_file());
    if is_file && fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let target = Target::create(path)?;
    let written = target.writer().write_all(text.as_bytes());
    written.or_exit(Exit::CantCreate, || format!("cannot write {}", path.display()))?;
    target.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(reference: &str, platform: &str) -> Pin {
        Pin {
            reference: reference.parse().unwrap(),
            platform: platform.parse().unwrap(),
            digest: Digest::of(platform.as_bytes()),
        }
    }

    #[test]
    fn lines_round_trip() {
        let pins = [pin("alpine", "linux/amd64"), pin("h:1/x:2", "linux/arm/v7")];
        let text = format!("# pinned\n\n{}\n  {}  \n", pins[0], pins[1]);
        assert_eq!(parse(&text, "f").unwrap(), pins);
        for bad in ["alpine", "alpine linux/amd64", "alpine linux/amd64 sha256:1", "A linux/amd64 x", "a b c d"] {
            let error = parse(&format!("\n{bad}\n"), "f").unwrap_err();
            assert!(error.to_string().contains("f:2"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_right_platform_is_chosen() {
        let host = Platform::host().normal().to_string();
        let pins = [
            pin("a", "linux/s390x"),
            pin("a", &host),
            pin("b", "linux/s390x"),
            pin("c", "linux/s390x"),
            pin("c", "linux/riscv64"),
        ];
        let chosen = |reference: &str, platform: Option<&str>| {
            let platform = platform.map(|p| p.parse().unwrap());
            choose(&pins, &reference.parse().unwrap(), platform.as_ref()).map(|p| p.platform.to_string())
        };
        assert_eq!(chosen("a", None), Some(host));
        assert_eq!(chosen("a", Some("linux/s390x")).as_deref(), Some("linux/s390x"));
        assert_eq!(chosen("a", Some("linux/riscv64")), None);
        assert_eq!(chosen("b", None).as_deref(), Some("linux/s390x"));
        assert_eq!(chosen("c", None), None);
        assert_eq!(chosen("d", None), None);
    }

    #[test]
    fn the_file_is_touched_only_if_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.lock");
        let pins = [pin("a", "linux/amd64"), pin("a", "linux/amd64")];
        write(&path, &pins).unwrap();
        assert_eq!(read(&path).unwrap(), pins[..1]);
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().append(true).open(&path).unwrap().set_modified(old).unwrap();
        write(&path, &pins).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
        write(&path, &[]).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().modified().unwrap(), old);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
