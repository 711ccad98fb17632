//! Waiting for what other processes do, and looking at them through /proc.

use std::fs;
use std::time::{Duration, Instant};

/// Asks again and again, until the answer is yes (true) or the time is over (false).
pub fn eventually(within: Duration, mut answer: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(1);
    loop {
        if answer() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Whether a process lives (a zombie does not).
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The pids of all descendants of a process, those that live.
pub fn children(pid: u32) -> Vec<u32> {
    let pids =
        || fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let direct: Vec<u32> =
        pids().filter(|&p: &u32| stat(p).is_some_and(|(state, parent)| state != 'Z' && parent == pid)).collect();
    let further: Vec<u32> = direct.iter().flat_map(|&p| children(p)).collect();
    direct.into_iter().chain(further).collect()
}

/// State and parent of a process (proc_pid_stat(5): the name in parentheses may hold anything).
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
