use super::value::{descriptor, each, listed, number, of, one, parsed, path, text};
use super::*;

#[derive(Default, Debug, PartialEq)]
struct Args {
    operands: Vec<String>,
    command: Vec<OsString>,
    quiet: bool,
    verbose: u8,
    size: Option<i64>,
    list: Vec<String>,
    all: Option<String>,
    names: Vec<String>,
    pairs: Vec<(OsString, OsString)>,
    when: Option<When>,
    file: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Always,
    Never,
}

impl Words for When {
    const WORDS: &'static [(&'static str, Self)] = &[("always", Self::Always), ("never", Self::Never)];

    fn help(self) -> &'static str {
        match self {
            Self::Always => "Each time",
            Self::Never => "Not at all",
        }
    }
}

const OPERAND: fn(&mut Args, OsString) -> Result<(), Wrong> = |a, v| each(&mut a.operands, text(v)?);

#[rustfmt::skip]
const TOOL: Tool<Args> = Tool {
    name: "d-test",
    version: "1.2",
    about: "Test a table",
    details: "With a tool of its own.",
    usage: &["d-test [OPTIONS] [WORD]...", "d-test --names WORD..."],
    operands: &[("WORD...", "Words")],
    takes: Operands::Anywhere(OPERAND),
    options: &[
        ("Options", &[
            opt("-q, --quiet", Set::Switch(|a| a.quiet = true), "Say nothing"),
            opt("-v, --verbose...", Set::Switch(|a| a.verbose += 1), "Say more"),
            opt("-s, --size N", Set::Dashed(|a, v| one(&mut a.size, number(v, -5..=5)?)), "A size"),
            opt("--replace all", Set::Maybe(|a, v| one(&mut a.all, text(v)?)), "Replace"),
            opt("-h, --help", Set::Prints(Print::Help), "Print help"),
            opt("-V, --version", Set::Prints(Print::Version), "Print version"),
            opt("--completions SHELL", Set::Prints(Print::Completions), ""),
            opt("-d, --detach", Set::Refused("use &"), ""),
        ]),
        ("More", &[
            opt("-l, --list ITEM", Set::Each(|a, v| each(&mut a.list, text(v)?)), "An item"),
            opt("--names WORD...", Set::Many(|a, v| each(&mut a.names, text(v)?)), "Many"),
            opt("--bind SRC DST", Set::Pair(|a, s, d| a.pairs.push((s, d))), "A pair"),
            opt("--when WHEN", Set::Word(listed::<When>, |a, v| one(&mut a.when, of(&v)?)), "A word"),
            opt("-0", Set::Switch(|_| {}), "A letter alone"),
            opt("--file FILE", Set::One(|a, v| one(&mut a.file, path(v)?)), "A file"),
        ]),
    ],
    excludes: &[("--quiet", &["--verbose", "-0"])],
    closing: "That is all.",
};

fn parse(line: &str) -> Args {
    TOOL.parse(line.split(' ')).unwrap()
}

fn refused(line: &str) -> String {
    match TOOL.parse(line.split(' ')) {
        Err(Outcome::Usage(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn printed(line: &str) -> String {
    match TOOL.parse(line.split(' ')) {
        Err(Outcome::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn specs_are_read() {
    let quiet = TOOL.by_name("quiet").unwrap();
    assert_eq!((quiet.short(), quiet.long(), quiet.name()), (Some('q'), Some("quiet"), "--quiet"));
    let verbose = TOOL.by_letter('v').unwrap();
    assert_eq!((verbose.long(), verbose.values().count()), (Some("verbose"), 0));
    assert_eq!(TOOL.by_name("bind").unwrap().values().collect::<Vec<_>>(), ["SRC", "DST"]);
    let zero = TOOL.by_letter('0').unwrap();
    assert_eq!((zero.long(), zero.name()), (None, "-0"));
    assert!(TOOL.by_name("0").is_none() && TOOL.by_name("").is_none() && TOOL.by_letter('-').is_none());
}

#[test]
fn options_and_operands_in_any_order() {
    let args = parse("t a -vvs-2 b --list=x -ly --list z c --size 3");
    assert_eq!((args.operands, args.verbose), (["a", "b", "c"].map(str::to_owned).into(), 2));
    assert_eq!((args.list, args.size), (["x", "y", "z"].map(str::to_owned).into(), Some(3)));
    assert_eq!(parse("t a -- -q --list").operands, ["a", "-q", "--list"]);
    assert_eq!(parse("t -").operands, ["-"]);
    assert_eq!(parse("t --list - --list= -l=x").list, ["-", "", "x"]);
}

#[test]
fn values_of_all_kinds() {
    assert_eq!(
        (parse("t --replace a").all.as_deref(), parse("t --replace=all a").all.as_deref()),
        (Some(""), Some("all"))
    );
    let args = parse("t --names a - b -q c --names=d e -- f");
    assert_eq!(
        (args.names, args.operands),
        (["a", "-", "b", "d"].map(str::to_owned).into(), ["c", "e", "f"].map(str::to_owned).into())
    );
    assert_eq!(parse("t --bind a b --bind=c d").pairs, [("a".into(), "b".into()), ("c".into(), "d".into())]);
    assert_eq!((parse("t --when never").when, parse("t --size -1").size), (Some(When::Never), Some(-1)));
}

#[test]
fn what_is_wrong_is_one_line_that_names_it() {
    for (line, text) in [
        ("t --lis x", "there is no option --lis; see d-test --help"),
        ("t -qx", "there is no option -x; see d-test --help"),
        ("t -5", "there is no option -5; see d-test --help"),
        ("t --list", "--list needs a value: --list <ITEM>; see d-test --help"),
        ("t --list -q", "--list needs a value: --list <ITEM>; see d-test --help"),
        ("t --list -- x", "--list needs a value: --list <ITEM>; see d-test --help"),
        ("t --names -q", "--names needs a value: --names <WORD...>; see d-test --help"),
        ("t --bind a", "--bind needs a value: --bind <SRC> <DST>; see d-test --help"),
        ("t --size x", "--size cannot be \"x\": it is not a number from -5 to 5; see d-test --help"),
        ("t --when=now", "--when cannot be \"now\": it is one of always, never; see d-test --help"),
        ("t --file=", "--file cannot be \"\": the command that should print it failed; see d-test --help"),
        ("t -d", "--detach is not an option here: use &; see d-test --help"),
        ("t -v --quiet", "--quiet cannot be used with --verbose; see d-test --help"),
        ("t -0q", "--quiet cannot be used with -0; see d-test --help"),
        ("t --completions ksh", "--completions cannot be \"ksh\": it is one of bash, fish, zsh; see d-test --help"),
    ] {
        assert_eq!(refused(line), text);
    }
    assert!(refused("t --quiet=x").contains("--quiet") && refused("t --help=x").contains("--help"));
}

#[test]
fn what_is_no_text() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    assert!(TOOL.parse([OsString::from("t"), bytes()]).is_err());
    assert_eq!(path(bytes()).unwrap().into_os_string(), bytes());
    assert!(text(bytes()).is_err() && parsed::<u8>("256".into()).is_err());
    assert_eq!((parsed::<u8>("255".into()), descriptor("3".into())), (Ok(255), Ok(3)));
}

#[test]
fn where_operands_stand() {
    let take: fn(&mut Args, Vec<OsString>) = |a, words| a.command = words;
    let end = Tool { takes: Operands::AtTheEnd(take), ..TOOL };
    let read = |line: &str| end.parse(line.split(' ')).unwrap();
    let args = read("t -q a -v -- b");
    assert_eq!((args.quiet, args.verbose, args.command), (true, 0, ["a", "-v", "--", "b"].map(Into::into).into()));
    assert_eq!(read("t -q -- -a -v").command, ["-a", "-v"]);

    let command = Tool { takes: Operands::AndCommand(OPERAND, take), ..TOOL };
    let read = |line: &str| command.parse(line.split(' ')).unwrap();
    let args = read("t a -q b -- -v -- c");
    assert_eq!((args.operands.len(), args.verbose, args.command), (2, 0, ["-v", "--", "c"].map(Into::into).into()));
    assert!(command.parse("t --list -- a".split(' ')).is_err());
}

#[test]
fn help_and_its_summary() {
    let (help, summary) = (printed("t --help"), printed("t -qh"));
    for text in [&help, &summary] {
        for part in [
            "Test a table",
            "Usage: d-test [OPTIONS] [WORD]...\n       d-test --names WORD...",
            "[WORD]...",
            "More:",
            "--replace[=<all>]",
            "-v, --verbose...",
            "--names <WORD>...",
            "--bind <SRC> <DST>",
            "  -0",
            "always",
            "That is all.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("completions") && !text.contains("detach"));
    }
    assert!(help.contains("Test a table.\n\nWith a tool of its own.") && help.contains("- never:  Not at all"));
    assert!(!summary.contains("of its own") && !summary.contains("Not at all"));
    assert_eq!(printed("t -V --nonsense"), "d-test 1.2\n");
}

#[test]
fn completions() {
    for (shell, parts) in [
        (
            "bash",
            [
                "    --when) offer=(-W 'always never') ;;",
                "    -s|--size) offer=(-W '') ;;",
                "    --file) offer=(-f) ;;",
                "complete -o filenames -F _d_test d-test",
            ],
        ),
        (
            "fish",
            [
                "complete -c d-test -l when -d 'A word' -x -a 'always never'\n",
                "complete -c d-test -s s -l size -d 'A size' -r\n",
                "complete -c d-test -l file -d 'A file' -r -F\n",
                "complete -c d-test -s 0 -d 'A letter alone'\n",
            ],
        ),
        (
            "zsh",
            [
                "'*--when=[A word]:WHEN:(always never)' \\\n",
                "'*-s+[A size]:N:' \\\n",
                "'*--file=[A file]:FILE:_files' \\\n",
                "'*--replace=-[Replace]::all:' \\\n",
            ],
        ),
    ] {
        let text = printed(&format!("t --completions {shell}"));
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("detach") && !text.contains("completions"), "{text}");
    }
}

#[test]
fn a_narrow_terminal() {
    use super::print::{Row, aligned, detailed, wrapped};
    assert_eq!(wrapped("one two three four five", 4, 20), "one two three four\n    five");
    let row = |spec: &str| Row { spec: spec.to_owned(), help: "Is explained in many words", words: listed::<When>() };
    let beside = "  --x   Is explained in many words\n        [possible values: always,\n        never]";
    assert_eq!(aligned(&[row("--x")], 36), beside.replace("--x   ", "--x  ").replace("        ", "       "));
    let below = "  --long-name\n          Is explained in many\n          words [possible\n          values: always,\n          never]";
    assert_eq!(aligned(&[row("--long-name")], 30), below);
    assert!(detailed(&[row("--x")], 30).ends_with("          - always: Each time\n          - never:  Not at all"));
}
