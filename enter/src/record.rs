//! What a running d-enter keeps for those who join its container: a file in the runtime directory, named by its pid, with the
//! pid of the container's init and the system call filters, which nobody can read back from a process.
//!
//! The file is removed at the end. One that a killed run has left is removed by the next; until then a start time tells that
//! it is not about the process that has its pid now.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use d_common::layout::{MAX_JSON, read_bounded};
use d_common::report::{Report, chain};
use d_common::sys::BpfInstruction;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::command::Filters;

/// The first line of the file; the filters' instructions follow, eight bytes each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    /// When d-enter was started, in ticks since boot (proc_pid_stat(5)).
    start: u64,
    init: i32,
    /// The inode of the container's user namespace.
    user_namespace: u64,
    /// How many of the instructions are the profile's; the rest emulates root.
    base: usize,
}

/// The file of this process; it goes with this value.
#[derive(Debug)]
pub struct Record<'a> {
    dir: PathBuf,
    init: Pid,
    user_namespace: io::Result<u64>,
    filters: &'a Filters,
    written: Option<PathBuf>,
}

impl<'a> Record<'a> {
    /// What is to be written into `dir`. Now its init can be looked at: later it is not dumpable.
    pub fn new(dir: PathBuf, init: Pid, filters: &'a Filters) -> Self {
        let user_namespace = fs::metadata(format!("/proc/{}/ns/user", init.as_raw_nonzero())).map(|file| file.ino());
        Self { dir, init, user_namespace, filters, written: None }
    }

    /// Writes it, and clears away what killed runs have left there. Without it, which is reported, a container can still be
    /// joined, with the built-in filter.
    pub fn write(&mut self, report: &Report) {
        remove_left_over(&self.dir);
        match self.try_write() {
            Ok(path) => self.written = Some(path),
            Err(e) => report.info(format!("no record in {} for --join: {}", self.dir.display(), chain(&e.into()))),
        }
    }

    fn try_write(&mut self) -> io::Result<PathBuf> {
        let own = std::process::id();
        let header = Header {
            start: start_time(own).unwrap_or(0),
            init: self.init.as_raw_nonzero().get(),
            user_namespace: std::mem::replace(&mut self.user_namespace, Ok(0))?,
            base: self.filters.base.len(),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend(self.filters.base.iter().chain(self.filters.fakeroot.iter()).flat_map(encode));
        // Whole or not at all.
        let (temporary, path) = (self.dir.join(format!(".{own}")), self.dir.join(own.to_string()));
        File::create(&temporary)?.write_all(&bytes)?;
        fs::rename(&temporary, &path)?;
        Ok(path)
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.written.iter().for_each(|path| _ = fs::remove_file(path));
    }
}

/// A running container, as its record tells.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its init.
    pub init: Pid,
    /// The inode of its user namespace.
    pub user_namespace: u64,
    /// The filters of its command.
    pub filters: Filters,
}

/// The container of the d-enter with this pid.
pub fn of(dir: &Path, pid: u32) -> Option<Running> {
    let bytes = read_bounded(File::open(dir.join(pid.to_string())).ok()?, MAX_JSON).ok()?;
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    if start_time(pid) != Some(header.start) {
        return None;
    }
    let mut base: Vec<BpfInstruction> = bytes[end + 1..].chunks_exact(8).map(decode).collect();
    let fakeroot = base.split_off(header.base.min(base.len()));
    let filters = Filters { base: base.into(), fakeroot: fakeroot.into(), lenient: false };
    Some(Running { init: Pid::from_raw(header.init)?, user_namespace: header.user_namespace, filters })
}

/// All running containers, with the pids of their d-enters.
pub fn all(dir: &Path) -> Vec<(u32, Running)> {
    pids(dir).into_iter().filter_map(|pid| Some((pid, of(dir, pid)?))).collect()
}

fn pids(dir: &Path) -> Vec<u32> {
    fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn remove_left_over(dir: &Path) {
    for pid in pids(dir) {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = fs::remove_file(dir.join(pid.to_string()));
        }
    }
}

/// When a process was started: field 22 of its stat; the second field may hold anything, up to the last parenthesis.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn encode(i: &BpfInstruction) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
    [a, b, i.jt, i.jf, c, d, e, f]
}

fn decode(bytes: &[u8]) -> BpfInstruction {
    let byte = |n: usize| bytes.get(n).copied().unwrap_or(0);
    BpfInstruction {
        code: u16::from_ne_bytes([byte(0), byte(1)]),
        jt: byte(2),
        jf: byte(3),
        k: u32::from_ne_bytes([byte(4), byte(5), byte(6), byte(7)]),
    }
}

#[cfg(test)]
mod tests {
    use d_common::report::Level;

    use super::*;

    #[test]
    fn what_was_written_is_read_while_its_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let one = |k| BpfInstruction { code: 0x15, jt: 1, jf: 2, k };
        let filters =
            Filters { base: vec![one(1), one(0xdead_beef)].into(), fakeroot: vec![one(3)].into(), lenient: false };
        fs::write(dir.path().join("99999999"), "left").unwrap();
        let own = std::process::id();
        let mut record = Record::new(dir.path().to_owned(), rustix::process::getpid(), &filters);
        record.write(&Report::new("d-enter", Level::Quiet));
        assert_eq!(pids(dir.path()), [own]);
        let read = of(dir.path(), own).unwrap();
        let show = |f: &[BpfInstruction]| f.iter().map(encode).collect::<Vec<_>>();
        assert_eq!(show(&read.filters.base), show(&filters.base));
        assert_eq!(show(&read.filters.fakeroot), show(&filters.fakeroot));
        assert_eq!(read.init, rustix::process::getpid());
        // The same pid, another process.
        let text = fs::read(dir.path().join(own.to_string())).unwrap();
        fs::write(dir.path().join("1"), text).unwrap();
        assert!(of(dir.path(), 1).is_none());
        drop(record);
        assert!(of(dir.path(), own).is_none());
    }
}
