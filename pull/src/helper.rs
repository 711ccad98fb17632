//! Credential helpers: `docker-credential-NAME get`, a host on stdin, JSON on stdout (docker-credential-helpers).

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use serde::Deserialize;

use crate::credentials::Secret;

/// Most bytes that are read of a helper's answer.
const MAX_ANSWER: u64 = 1 << 20;
/// Most characters of a failed helper's words that are shown.
const MAX_REASON: usize = 200;
/// How long a helper may take; some ask their user.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// What the helper `name` has for `key`; `None` if it knows nothing of it.
///
/// # Errors
/// It is missing, fails, answers nonsense or nothing at all.
pub fn get(name: &str, key: &str) -> Result<Option<Secret>> {
    let program = format!("docker-credential-{name}");
    // The name comes from a file: it must not lead out of PATH.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        fail!(Exit::Unavailable, "{program:?} is not the name of a credential helper");
    }
    let path = which::which(&program).or_exit(Exit::Unavailable, || format!("{program} is not in PATH"))?;
    let mut child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .or_exit(Exit::Unavailable, || format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why in its answer.
        let _ = stdin.write_all(key.as_bytes());
    }
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = wait(&mut child, &program)?;
    let answer = match stdout.join() {
        Ok(answer) => answer.or_exit(Exit::Io, || format!("cannot read the answer of {program}"))?,
        Err(_) => fail!(Exit::Io, "cannot read the answer of {program}"),
    };
    if !status.success() {
        // The one failure that the protocol has words for.
        if String::from_utf8_lossy(&answer).contains("credentials not found") {
            return Ok(None);
        }
        // By the protocol its reason is on stdout; many write it to stderr.
        let said = [answer, stderr.join().ok().and_then(Result::ok).unwrap_or_default()];
        let why = said.iter().find_map(|text| reason(text)).map(|why| format!(": {why}")).unwrap_or_default();
        fail!(Exit::Unavailable, "{program} failed, {status}{why}");
    }
    // Not the JSON error itself, which may quote a secret.
    let answer: Answer = serde_json::from_slice(&answer)
        .ok()
        .or_exit(Exit::Data, || format!("{program} answers no JSON credentials"))?;
    Ok(Some(Secret::from_helper(answer.username, answer.secret)))
}

/// Reads a stream of the helper's to its end, beside the others.
fn read(stream: Option<impl Read + Send + 'static>) -> JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let outcome = stream.map_or(Ok(0), |stream| stream.take(MAX_ANSWER).read_to_end(&mut bytes));
        outcome.map(|_| bytes)
    })
}

/// The first line that a failed helper has said, if it is a reason and no credentials.
fn reason(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).find(|l| !l.is_empty())?;
    let safe = !line.contains(['{', '"']);
    safe.then(|| line.chars().take(MAX_REASON).collect())
}

fn wait(child: &mut Child, program: &str) -> Result<ExitStatus> {
    let deadline = Instant::now() + TIMEOUT;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().or_exit(Exit::Io, || format!("cannot wait for {program}"))? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            fail!(Exit::Unavailable, "{program} does not answer within {} s", TIMEOUT.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
