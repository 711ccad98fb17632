//! Results on stdout: a line each, or NUL-ended, or as JSON; each written at once, by one write(2) and before the next is
//! begun.

use anyhow::Result;
use d_common::report::printable;
use serde_json::{Value, json};

use crate::lockfile::Pin;
use crate::plan::Format;
use crate::pull::Pulled;

/// Prints results.
#[derive(Clone, Copy, Debug)]
pub struct Results(pub Format);

impl Results {
    /// An image in the cache: its manifest's path.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn pulled(self, image: &Pulled) -> Result<()> {
        let json = || {
            json!({
                "reference": image.reference.to_string(),
                "platform": image.platform.to_string(),
                "digest": image.digest.to_string(),
                "path": image.path.to_string_lossy(),
            })
        };
        use std::os::unix::ffi::OsStrExt;
        self.print(image.path.as_os_str().as_bytes(), json)
    }

    /// The digest that an image has.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn digest(self, pin: &Pin) -> Result<()> {
        self.print(pin.digest.to_string().as_bytes(), || pin_json(pin))
    }

    /// An image of the cache.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn listed(self, pin: &Pin) -> Result<()> {
        self.print(pin.to_string().as_bytes(), || pin_json(pin))
    }

    /// A tag of a repository.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn tag(self, repository: &str, tag: &str) -> Result<()> {
        let tag = word(tag);
        self.print(tag.as_bytes(), || json!({"repository": repository, "tag": tag}))
    }

    /// A damaged blob or a broken image.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn broken(self, what: &str, why: &str) -> Result<()> {
        // The names are other tools' too.
        self.print(format!("{} {why}", word(what)).as_bytes(), || json!({"broken": printable(what), "reason": why}))
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn raw(self, bytes: &[u8]) -> Result<()> {
        d_common::output::print(bytes)
    }

    fn print(self, line: &[u8], json: impl FnOnce() -> Value) -> Result<()> {
        let mut text = match self.0 {
            Format::Json => json().to_string().into_bytes(),
            Format::Lines | Format::Null => line.to_vec(),
        };
        text.push(if self.0 == Format::Null { 0 } else { b'\n' });
        self.raw(&text)
    }
}

/// Text from outside as one word of a line.
fn word(text: &str) -> String {
    printable(text).replace(char::is_whitespace, "?")
}

fn pin_json(pin: &Pin) -> Value {
    json!({
        "reference": pin.reference.to_string(),
        "platform": pin.platform.to_string(),
        "digest": pin.digest.to_string(),
    })
}
