//! `d-unpack --check`: what this machine can do, and for each thing that is missing the cause and the remedy.

use std::io::{self, Write};

use anyhow::Result;
use d_common::exit::{Exit, OrExit};
use d_common::idmap::{Facts, MapChoice, decide};
use d_common::report::chain;
use d_common::userns;
use serde_json::json;

/// One thing that was looked at.
#[derive(Debug)]
struct Item {
    name: &'static str,
    problem: Option<String>,
    means: &'static str,
}

/// Prints the report, as text or as JSON lines.
///
/// # Errors
/// [`Exit::Io`] when stdout is gone.
pub fn run(json: bool) -> Result<()> {
    let facts = userns::facts();
    let mut stdout = io::stdout().lock();
    for item in items(&facts) {
        let line = match (json, &item.problem) {
            (true, problem) => json!({
                "name": item.name, "ok": problem.is_none(), "problem": problem, "means": item.means,
            })
            .to_string(),
            (false, None) => format!("ok       {}: {}", item.name, item.means),
            (false, Some(problem)) => format!("missing  {}: {problem}; {}", item.name, item.means),
        };
        writeln!(stdout, "{line}").or_exit(Exit::Io, || "cannot print the result")?;
    }
    Ok(())
}

fn items(facts: &Facts) -> Vec<Item> {
    let problem = |choice| decide(choice, facts, (0, 0)).err().map(|e| chain(&e));
    // The maps are tried for real, the widest first: this process is then inside, and sees no more of the others.
    let subid = problem(MapChoice::Subid).or_else(|| try_map(facts, MapChoice::Subid));
    let single = if subid.is_none() { None } else { try_map(facts, MapChoice::Single) };
    let keep_id = problem(MapChoice::KeepId).or_else(|| subid.clone());
    vec![
        Item { name: "userns", problem: single, means: "a user namespace for this user (else owners are all one)" },
        Item { name: "map-subid", problem: subid, means: "--map=subid: owners as in the image" },
        Item { name: "map-keep-id", problem: keep_id, means: "--map=keep-id: the same, with my own id kept" },
        Item { name: "map-single", problem: None, means: "--map=single: all files mine" },
    ]
}

fn try_map(facts: &Facts, choice: MapChoice) -> Option<String> {
    if facts.privileged {
        return None;
    }
    let map = decide(choice, facts, (0, 0)).ok()?.map;
    userns::enter(&map, false).err().map(|e| chain(&e))
}
