//! Drift is a test failure: what the manual pages say, what the tools do, and what they may link.

use std::collections::{BTreeMap, BTreeSet};

/// All that `package` links, by Cargo.lock.
fn linked(package: &str) -> BTreeSet<String> {
    let mut depends: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for block in include_str!("../Cargo.lock").split("[[package]]") {
        let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(" = "));
        let Some(name) = field("name") else { continue };
        let list = block.split_once("dependencies = [").map_or("", |(_, list)| list);
        // "NAME" or "NAME VERSION", where two versions are about.
        let names = list.lines().filter_map(|l| l.trim().strip_prefix('"')?.split(['"', ' ']).next());
        depends.entry(name.trim_matches('"')).or_default().extend(names);
    }
    let mut found = BTreeSet::new();
    let mut left = vec![package];
    while let Some(next) = left.pop() {
        if found.insert(next.to_owned()) {
            left.extend(&depends[next]);
        }
    }
    found
}

#[test]
fn no_tool_links_what_it_should_not() {
    let only = [
        ("reqwest", "d-pull"),
        ("rustls", "d-pull"),
        ("tar", "d-unpack"),
        ("flate2", "d-unpack"),
        ("zstd", "d-unpack"),
    ];
    for tool in d_tests::TOOLS {
        let linked = linked(tool);
        assert!(linked.contains("d-common"), "{tool} uses the common table of exit codes");
        for (package, owner) in only {
            assert!(tool == owner || !linked.contains(package), "{tool} links {package}, which is {owner}'s");
        }
        for other in d_tests::TOOLS {
            assert!(other == tool || !linked.contains(other), "{tool} depends on {other}");
        }
    }
}
