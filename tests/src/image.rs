//! Makes images from bytes: layers (plain, gzip, zstd) and a config, written as an OCI image layout that d-unpack reads,
//! skopeo pushes, and a misbehaving registry serves.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use d_common::digest::Digest;
use serde_json::{Value, json};

use crate::tar::{Entry, tar};

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip(1).
    Gzip,
    /// zstd(1).
    Zstd,
    /// zstd(1) with a window of 128 MiB.
    ZstdLong,
    /// xz(1) with a window of 64 MiB, as `xz -9` has it.
    Xz,
}

/// An image in the making.
#[derive(Clone, Debug)]
pub struct Image {
    layers: Vec<(Value, Vec<u8>)>,
    diff_ids: Vec<String>,
    /// The members of the config object beside `rootfs`; `config` in it is what a container gets.
    pub config: Value,
}

impl Default for Image {
    fn default() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        Self {
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: json!({"architecture": architecture, "os": "linux", "config": {}}),
        }
    }
}

impl Image {
    /// An image without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more layer on top: a plain tar archive, which is not compressed.
    pub fn layer(self, tar: impl AsRef<[u8]>) -> Self {
        self.layer_as(tar, Compression::Plain)
    }

    /// One more layer on top: a plain tar archive, which is compressed so.
    pub fn layer_as(mut self, tar: impl AsRef<[u8]>, compression: Compression) -> Self {
        let (suffix, bytes) = match compression {
            Compression::Plain => ("", tar.as_ref().to_vec()),
            Compression::Gzip => ("+gzip", filter(&["gzip", "-1"], tar.as_ref())),
            Compression::Zstd => ("+zstd", filter(&["zstd", "-q"], tar.as_ref())),
            Compression::ZstdLong => ("+zstd", filter(&["zstd", "-q", "-1", "--long=27"], tar.as_ref())),
            Compression::Xz => ("", filter(&["xz", "--lzma2=preset=0,dict=64MiB"], tar.as_ref())),
        };
        self.diff_ids.push(Digest::of(tar.as_ref()).to_string());
        self.layers.push((descriptor(&format!("application/vnd.oci.image.layer.v1.tar{suffix}"), &bytes), bytes));
        self
    }

    /// Sets a member of the container's config: `("Cmd", json!(["/bin/sh"]))`.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config["config"][key] = value;
        self
    }

    /// The blobs (media type, bytes) and their digests, the manifest last.
    pub fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        let mut config = self.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": self.diff_ids});
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": self.layers.iter().map(|(d, _)| d).collect::<Vec<_>>(),
        });
        let blobs =
            self.layers.iter().map(|(_, bytes)| bytes.clone()).chain([config, manifest.to_string().into_bytes()]);
        blobs.map(|bytes| (Digest::of(&bytes), bytes)).collect()
    }

    /// It as an OCI archive, in the order in which `d-pull -o` writes: index, manifest and config, then the layers.
    pub fn archive(&self) -> Vec<u8> {
        let blobs = self.blobs();
        let (manifest, others) = blobs.split_last().expect("the manifest");
        let (config, layers) = others.split_last().expect("the config");
        let index = self.index(&manifest.1).to_string();
        let mut entries =
            vec![Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), Entry::file("index.json", index)];
        let mut seen = std::collections::BTreeSet::new();
        for (digest, bytes) in [manifest, config].into_iter().chain(layers) {
            if seen.insert(digest.clone()) {
                entries.push(Entry::file(format!("blobs/sha256/{}", digest.hex()), bytes));
            }
        }
        tar(entries)
    }

    /// It as `docker save` wrote before Docker 25: layers by directory, `manifest.json` last.
    pub fn saved(&self, tag: &str) -> Vec<u8> {
        let blobs = self.blobs();
        let config = &blobs[blobs.len() - 2];
        let mut entries = Vec::new();
        let mut paths = Vec::new();
        for (n, (_, bytes)) in blobs[..blobs.len() - 2].iter().enumerate() {
            let dir = Digest::of(&[u8::try_from(n).expect("few layers")]).hex().to_owned();
            entries.extend([Entry::dir(&dir), Entry::file(format!("{dir}/VERSION"), "1.0")]);
            entries.push(Entry::file(format!("{dir}/layer.tar"), bytes));
            paths.push(format!("{dir}/layer.tar"));
        }
        let name = format!("{}.json", config.0.hex());
        entries.push(Entry::file(&name, &config.1));
        let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": paths}]);
        entries.push(Entry::file("manifest.json", manifest.to_string()));
        tar(entries)
    }

    fn index(&self, manifest: &[u8]) -> Value {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        json!({"schemaVersion": 2, "manifests": [entry]})
    }

    /// Writes it as an OCI image layout with the tag `latest`; the path of the manifest's blob.
    ///
    /// # Panics
    /// If the folder cannot be written.
    #[track_caller]
    pub fn write(&self, layout: &Path) -> PathBuf {
        fs::create_dir_all(layout.join("blobs/sha256")).expect("a folder for the blobs");
        let blobs = self.blobs();
        for (digest, bytes) in &blobs {
            fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).expect("a blob");
        }
        let (digest, bytes) = blobs.last().expect("the manifest");
        fs::write(layout.join("index.json"), self.index(bytes).to_string()).expect("index");
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
        layout.join("blobs/sha256").join(digest.hex())
    }
}

/// A descriptor of bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

/// What a program makes of bytes.
fn filter(argv: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {argv:?}: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("its output");
    writer.join().expect("no panic").expect("its input");
    assert!(output.status.success(), "{argv:?}: {}", output.status);
    output.stdout
}

/// Bytes that look random, do not pack, and are always the same.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}
