//! Where the built binaries are. A separate package gets no `CARGO_BIN_EXE_*`, so that `cargo test` alone could run
//! yesterday's tools: a binary that is missing, or older than the sources it was built from, is refused.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The four tools, in the order in which an image passes through them.
pub const TOOLS: [&str; 4] = ["d-pull", "d-unpack", "d-enter", "d-netup"];

/// The folder of the built binaries.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("D_BIN") {
        return dir.into();
    }
    let test = std::env::current_exe().expect("the path of the test binary");
    test.ancestors().nth(2).expect("target/debug/deps/TEST").to_path_buf()
}

/// The path of a built tool.
///
/// # Panics
/// If it is missing, or older than its sources.
#[track_caller]
pub fn bin(tool: &str) -> PathBuf {
    let path = bin_dir().join(tool);
    let Ok(built) = path.metadata().and_then(|m| m.modified()) else {
        panic!("{} is missing: build the workspace first (cargo build --workspace), or use tests/run", path.display());
    };
    // tests/run sets D_BIN, and has built them the moment before.
    if std::env::var_os("D_BIN").is_none() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for folder in ["common/src", &format!("{}/src", tool.trim_start_matches("d-"))] {
            if let Some((source, _)) = newest(&root.join(folder)).filter(|(_, time)| *time > built) {
                panic!("{} is older than {}: cargo build --workspace", path.display(), source.display());
            }
        }
    }
    path
}

fn newest(folder: &Path) -> Option<(PathBuf, SystemTime)> {
    let entries = folder.read_dir().ok()?.flatten();
    entries
        .filter_map(|entry| {
            let meta = entry.metadata().ok()?;
            if meta.is_dir() { newest(&entry.path()) } else { Some((entry.path(), meta.modified().ok()?)) }
        })
        .max_by_key(|(_, time)| *time)
}
