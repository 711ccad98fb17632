//! Drift is a test failure: what the manual pages say, what the tools do, and what they may link.

use std::collections::{BTreeMap, BTreeSet};

use d_common::exit::Exit;
use d_tests::{Scratch, TOOLS, have, run, skip};

/// The manual pages, as they were when the tests were built.
const PAGES: [(&str, &str); 6] = [
    ("d-pull", include_str!("../man/d-pull.1")),
    ("d-unpack", include_str!("../man/d-unpack.1")),
    ("d-enter", include_str!("../man/d-enter.1")),
    ("d-netup", include_str!("../man/d-netup.1")),
    ("d-utils", include_str!("../man/d-utils.7")),
    ("d-container", include_str!("../man/d-container.5")),
];

fn page(name: &str) -> &'static str {
    PAGES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).expect("a manual page")
}

/// The long options that text speaks of: every `--NAME` that stands where a word begins.
fn long_options(line: &str) -> impl Iterator<Item = String> {
    line.match_indices("--").filter_map(|(at, _)| {
        let before = line[..at].chars().next_back();
        let name: String = line[at + 2..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && c != '-');
        (begins && !name.is_empty()).then(|| format!("--{name}"))
    })
}

/// The options that --help introduces: those of lines that begin with one, up to the two blanks before the explanation.
fn options_of_help(tool: &str) -> BTreeSet<String> {
    let help = run([tool, "--help"]).ok().out();
    let introducing = help.lines().map(str::trim_start).filter(|l| l.starts_with('-'));
    introducing.flat_map(|l| long_options(l.split("  ").next().unwrap_or(l)).collect::<Vec<_>>()).collect()
}

/// The options that the page introduces: those of the line after `.TP`.
fn options_of_page(tool: &str) -> BTreeSet<String> {
    let lines: Vec<_> = page(tool).lines().collect();
    let tags = lines.windows(2).filter(|w| [".TP", ".TQ"].contains(&w[0])).map(|w| w[1]);
    let plain = |tag: &str| tag.replace(r"\-", "-").replace(r"\fB", "").replace(r"\fR", "").replace(r"\fI", "");
    tags.flat_map(|tag| long_options(&plain(tag)).collect::<Vec<_>>()).collect()
}

#[test]
fn help_and_manual_pages_name_the_same_options() {
    for tool in TOOLS {
        let (help, page) = (options_of_help(tool), options_of_page(tool));
        assert!(help.len() > 5, "{tool} --help names its options: {help:?}");
        let undocumented: Vec<_> = help.difference(&page).collect();
        let unknown: Vec<_> = page.difference(&help).collect();
        assert!(
            undocumented.is_empty() && unknown.is_empty(),
            "{tool}: not in the page {undocumented:?}; not in --help {unknown:?}"
        );
    }
}

#[test]
fn each_page_has_its_sections() {
    for tool in TOOLS {
        let sections = [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "ENVIRONMENT",
            "FILES",
            "EXIT STATUS",
            "EXAMPLES",
            "SECURITY",
            "BUGS",
            "SEE ALSO",
        ];
        for section in sections {
            let has = |l: &str| l.strip_prefix(".SH ").is_some_and(|l| l.trim_matches('"') == section);
            assert!(page(tool).lines().any(has), "{tool}.1 has no section {section}");
        }
    }
}

#[test]
fn pages_are_sound() {
    if !have("mandoc") {
        return skip("mandoc is not installed");
    }
    let scratch = Scratch::new();
    for (name, text) in PAGES {
        scratch.write(name, text);
        scratch.run(["mandoc", "-Tlint", "-Wwarning", name]).ok().prints("");
    }
}

#[test]
fn exit_codes_stand_in_every_page() {
    let sysexits = [
        Exit::Usage,
        Exit::Data,
        Exit::NotFound,
        Exit::Unavailable,
        Exit::CantCreate,
        Exit::Io,
        Exit::TryAgain,
        Exit::Protocol,
        Exit::NotAllowed,
    ];
    let command = [Exit::Enter, Exit::CannotExecute, Exit::CommandNotFound];
    let has = |name: &str, exit: Exit| {
        let code = (exit as u8).to_string();
        let words = |l: &str| l.split(|c: char| !c.is_ascii_digit()).any(|w| w == code);
        let status = page(name).split(".SH EXIT STATUS").nth(1).and_then(|t| t.split(".SH ").next()).unwrap_or("");
        status.lines().any(words)
    };
    for exit in sysexits.into_iter().chain(command) {
        assert!(has("d-utils", exit), "d-utils(7) has no {exit:?}");
    }
    for exit in command {
        assert!(has("d-enter", exit) && has("d-netup", exit), "{exit:?} is missing in d-enter(1) or d-netup(1)");
    }
    for tool in ["d-pull", "d-unpack"] {
        for exit in [Exit::Usage, Exit::Data, Exit::NotFound, Exit::CantCreate, Exit::Io] {
            assert!(has(tool, exit), "{tool}(1) has no {exit:?}");
        }
    }
}

#[test]
fn help_version_and_completions_go_to_stdout() {
    for tool in TOOLS {
        run([tool, "--help"]).ok().out_has("Usage: ").silent();
        run([tool, "--version"]).ok().prints(&format!("{tool} {}", env!("CARGO_PKG_VERSION"))).silent();
        for shell in ["bash", "fish", "zsh"] {
            run([tool, "--completions", shell]).ok().out_has(tool).silent();
        }
    }
}

#[test]
fn wrong_usage_is_one_line() {
    for tool in TOOLS {
        let code = if tool == "d-enter" { 125 } else { 64 };
        run([tool, "--no-such-option"]).fails(code).err_has("--no-such-option").prints("");
        run([tool]).fails(code).prints("");
        run([tool, ""]).fails(code).err_has("is empty").prints("");
    }
}

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
    let owned = [
        ("reqwest", "d-pull"),
        ("rustls", "d-pull"),
        ("tar", "d-unpack"),
        ("flate2", "d-unpack"),
        ("zstd", "d-unpack"),
    ];
    for tool in TOOLS {
        let linked = linked(tool);
        assert!(linked.contains("d-common"), "{tool} shares the table of exit codes");
        for (package, owner) in owned {
            assert!(tool == owner || !linked.contains(package), "{tool} links {package}, which is {owner}'s");
        }
        for other in TOOLS {
            assert!(other == tool || !linked.contains(other), "{tool} depends on {other}");
        }
    }
}
