//! Credential helpers: `docker-credential-NAME get`, a host on stdin, JSON on stdout (docker-credential-helpers).

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::fail;
use serde::Deserialize;

use crate::credentials::Secret;

/// Most bytes that are read of a helper's answer.
const MAX_ANSWER: u64 = 1 << 20;
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
        .stderr(Stdio::null())
        .spawn()
        .or_exit(Exit::Unavailable, || format!("cannot run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why in its answer.
        let _ = stdin.write_all(key.as_bytes());
    }
    let stdout = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut answer = Vec::new();
        let outcome = stdout.map_or(Ok(0), |out| out.take(MAX_ANSWER).read_to_end(&mut answer));
        outcome.map(|_| answer)
    });
    let success = wait(&mut child, &program)?;
    let answer = match reader.join() {
        Ok(answer) => answer.or_exit(Exit::Io, || format!("cannot read the answer of {program}"))?,
        Err(_) => fail!(Exit::Io, "cannot read the answer of {program}"),
    };
    if !success {
        // The one failure that the protocol has words for.
        if String::from_utf8_lossy(&answer).contains("credentials not found") {
            return Ok(None);
        }
        fail!(Exit::Unavailable, "{program} failed");
    }
    // Not the JSON error itself, which may quote a secret.
    let answer: Answer = serde_json::from_slice(&answer)
        .ok()
        .or_exit(Exit::Data, || format!("{program} answers no JSON credentials"))?;
    Ok(Some(Secret::from_helper(answer.username, answer.secret)))
}

fn wait(child: &mut Child, program: &str) -> Result<bool> {
    let deadline = Instant::now() + TIMEOUT;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().or_exit(Exit::Io, || format!("cannot wait for {program}"))? {
            return Ok(status.success());
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
