//! `--check`: what this machine has and lacks for d-pull, a line for each thing, with the remedy for what is missing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use d_common::check::{Row, report};
use d_common::exit::{Exit, failure};
use d_common::output;

use crate::context::Context;
use crate::plan::Format;

/// Prints the rows.
///
/// # Errors
/// [`Exit::Unavailable`] when something is missing that every pull needs.
pub fn run(context: &Context) -> Result<()> {
    let rows = [cache(context), authorities(), proxy(), credentials(context), helpers()];
    let (text, _) = report(&rows, context.plan.format == Format::Json);
    output::print(text.as_bytes())?;
    match rows.iter().find(|row| row.needed && !row.ok) {
        Some(row) => Err(failure(Exit::Unavailable, format!("{} is missing: {}", row.check, row.found))),
        None => Ok(()),
    }
}

/// The first folder above it that exists must be ours to write.
fn cache(context: &Context) -> Row {
    let path = context.cache.layout.root();
    let Some(there) = path.ancestors().find(|p| p.exists()) else {
        return Row::no("cache", path.display().to_string(), "choose another folder with --cache or D_CACHE");
    };
    if !there.is_dir() {
        let found = format!("{} is no folder", there.display());
        return Row::no("cache", found, "choose another folder with --cache or D_CACHE").needed();
    }
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let row = match (writable, free(there)) {
        (Ok(()), free) => Row::yes("cache", format!("{}, {free} free", path.display())),
        (Err(e), _) => {
            let found =
                format!("{} cannot be written: {}", there.display(), d_common::report::errno_text(e.raw_os_error()));
            Row::no("cache", found, "choose another folder with --cache or D_CACHE")
        }
    };
    row.needed()
}

fn free(path: &Path) -> String {
    match rustix::fs::statvfs(path) {
        Ok(s) => format!("{} MiB", s.f_bavail.saturating_mul(s.f_frsize) >> 20),
        Err(_) => "unknown".to_owned(),
    }
}

fn authorities() -> Row {
    match crate::tls::system_root_count() {
        0 => Row::no("https", "no certificate authorities", "install ca-certificates, or set SSL_CERT_FILE"),
        n => Row::yes("https", format!("{n} certificate authorities")),
    }
}

fn proxy() -> Row {
    let set = ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];
    let set: Vec<&str> = set.into_iter().filter(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty())).collect();
    Row::yes("proxy", if set.is_empty() { "none".to_owned() } else { format!("set by {}", set.join(", ")) })
}

fn credentials(context: &Context) -> Row {
    let readable = |path: &&std::path::PathBuf| match fs::File::open(path) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    };
    let files: Vec<String> = context.plan.auth_files.iter().filter(readable).map(|p| p.display().to_string()).collect();
    Row::yes("credentials", if files.is_empty() { "none: public images only".to_owned() } else { files.join(", ") })
}

fn helpers() -> Row {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<String> = std::env::split_paths(&folders)
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("docker-credential-").map(str::to_owned))
        .collect();
    found.sort();
    found.dedup();
    Row::yes("credential-helpers", if found.is_empty() { "none".to_owned() } else { found.join(", ") })
}
