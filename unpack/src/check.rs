//! `d-unpack --check`: what this machine can do, and for each thing that is missing the cause and the remedy.

use anyhow::Result;
use d_common::check::{Row, report};
use d_common::idmap::{Facts, MapChoice, decide};
use d_common::output;
use d_common::report::chain;
use d_common::userns;

/// Prints the rows, as text or as JSON lines. None of them is needed: --map=single works everywhere.
///
/// # Errors
/// Those of stdout.
pub fn run(json: bool) -> Result<()> {
    output::print(report(&rows(&userns::facts()), json).0.as_bytes())
}

fn rows(facts: &Facts) -> Vec<Row> {
    let problem = |choice| decide(choice, facts, (0, 0)).err().map(|e| chain(&e));
    // The maps are tried for real, the widest first: this process is then inside, and sees no more of the others.
    let subid = problem(MapChoice::Subid).or_else(|| try_map(facts, MapChoice::Subid));
    let single = if subid.is_none() { None } else { try_map(facts, MapChoice::Single) };
    let keep_id = problem(MapChoice::KeepId).or_else(|| subid.clone());
    const ELSE: &str = "--map=single needs none of it; d-enter --check looks closer";
    vec![
        row(
            "user-namespace",
            single,
            "made one",
            "none needed: it works without, with a warning; d-enter --check looks closer",
        ),
        row("map-subid", subid, "owners as in the image", ELSE),
        row("map-keep-id", keep_id, "owners as in the image, with my own id kept", ELSE),
        Row::yes("map-single", "all files mine"),
    ]
}

fn row(name: &'static str, problem: Option<String>, found: &str, remedy: &str) -> Row {
    match problem {
        None => Row::yes(name, found),
        Some(cause) => Row::no(name, cause, remedy),
    }
}

fn try_map(facts: &Facts, choice: MapChoice) -> Option<String> {
    if facts.privileged {
        return None;
    }
    let map = decide(choice, facts, (0, 0)).ok()?.map;
    userns::enter(&map, false).err().map(|e| chain(&e))
}
