//! Filters against what the JSON means, call by call: for each ABI, each name, several sets of capabilities and arguments, the
//! program is run by the interpreter and compared with a second reading of the profile, which knows nothing of programs.

use serde_json::Value;

use super::BpfInstruction;
use super::abi::{Abi, Machine};
use super::interpreter::{Call, run};
use super::numbers::{self, SYSCALLS};
use super::profile::Profile;

/// Docker's default set, none, all, and each capability that the built-in profile asks for alone.
const KEPT: [u64; 9] = [0xa804_25fb, 0, (1 << 41) - 1, 1 << 2, 1 << 18, 1 << 21, 1 << 25, 1 << 26, 1 << 29];
const KERNEL: (u32, u32) = (6, 1);
/// Values that the profiles compare with, and their neighbours.
const EDGES: [u64; 12] = [0, 1, 2, 8, 9, 10, 16, 0x2_0000, 0x2_0008, 0xffff_ffff, 0x1_0000_0009, 0x7e02_0000];

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn action(value: &Value, action: &str, errno: &str) -> u32 {
    match value[action].as_str().unwrap() {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ERRNO" => 0x5_0000 + u32::try_from(value[errno].as_u64().unwrap_or(1)).unwrap(),
        "SCMP_ACT_TRAP" => 0x3_0000,
        "SCMP_ACT_KILL" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        other => panic!("{other}"),
    }
}

fn holds(condition: &Value, arguments: &[u64], wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let field = |name: &str| cut(condition[name].as_u64().unwrap_or(0));
    let argument = cut(arguments[usize::try_from(condition["index"].as_u64().unwrap()).unwrap()]);
    match condition["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => argument == field("value"),
        "SCMP_CMP_NE" => argument != field("value"),
        "SCMP_CMP_LT" => argument < field("value"),
        "SCMP_CMP_GE" => argument >= field("value"),
        "SCMP_CMP_MASKED_EQ" => argument & field("value") == field("valueTwo"),
        other => panic!("{other}"),
    }
}

/// What the profile says of a call.
fn meaning(profile: &Value, machine: &Machine, kept: u64, abi: Abi, name: &str, arguments: &[u64]) -> u32 {
    let default = action(profile, "defaultAction", "defaultErrnoRet");
    let is_kept = |name: &&str| match *name {
        "CAP_DAC_READ_SEARCH" => kept >> 2 & 1 == 1,
        "CAP_SYS_MODULE" => kept >> 16 & 1 == 1,
        "CAP_SYS_RAWIO" => kept >> 17 & 1 == 1,
        "CAP_SYS_CHROOT" => kept >> 18 & 1 == 1,
        "CAP_SYS_PTRACE" => kept >> 19 & 1 == 1,
        "CAP_SYS_PACCT" => kept >> 20 & 1 == 1,
        "CAP_SYS_ADMIN" => kept >> 21 & 1 == 1,
        "CAP_SYS_TIME" => kept >> 25 & 1 == 1,
        "CAP_SYS_TTY_CONFIG" => kept >> 26 & 1 == 1,
        "CAP_AUDIT_WRITE" => kept >> 29 & 1 == 1,
        "CAP_FROM_THE_FUTURE" => false,
        other => panic!("{other}"),
    };
    let mut conditional = None;
    for rule in profile["syscalls"].as_array().unwrap() {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = strings(&includes["arches"]);
        let applies = (strings(&rule["names"]).contains(&name) || rule["name"] == name)
            && strings(&includes["caps"]).iter().all(is_kept)
            && !strings(&excludes["caps"]).iter().any(is_kept)
            && (arches.is_empty() || arches.contains(&machine.go_name))
            && !strings(&excludes["arches"]).contains(&machine.go_name)
            && includes["minKernel"] != "99.1";
        let value = action(rule, "action", "errnoRet");
        if !applies || value == default {
            continue;
        }
        let conditions = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
        if conditions.is_empty() {
            return value;
        }
        if conditions.iter().all(|c| holds(c, arguments, matches!(abi, Abi::X86_64 | Abi::Aarch64))) {
            conditional.get_or_insert(value);
        }
    }
    conditional.unwrap_or(default)
}

/// Compares a filter with the profile for everything there is to ask.
fn compare(profile: &Profile, json: &Value, machine: &Machine) {
    for kept in KEPT {
        let program = profile.compile(kept, KERNEL).unwrap();
        for abi in machine.abis {
            for (row, (name, _)) in SYSCALLS.iter().enumerate() {
                let Some(number) = numbers::number(row, *abi) else { continue };
                let depends = json["syscalls"].as_array().unwrap().iter().any(|rule| {
                    strings(&rule["names"]).contains(name) && rule["args"].as_array().is_some_and(|a| !a.is_empty())
                });
                let second: &[u64] = if depends { &EDGES } else { &[7] };
                for (first, second) in EDGES.iter().flat_map(|first| second.iter().map(move |second| (*first, *second)))
                {
                    let arguments = [first, 0, second, 0, 0, 0];
                    let call = Call::new(*abi, number, &arguments);
                    let expected = meaning(json, machine, kept, *abi, name, &arguments);
                    let (answer, _) = run(&program, &call);
                    assert_eq!(answer, expected, "{name} {arguments:x?} of {abi:?} with {kept:#x}: {answer:#x}");
                }
            }
            let default = action(json, "defaultAction", "defaultErrnoRet");
            for number in [abi.number_bit() | 335, abi.number_bit() | 1000, u32::MAX] {
                if !(0..SYSCALLS.len()).any(|row| numbers::number(row, *abi) == Some(number)) {
                    assert_eq!(run(&program, &Call::new(*abi, number, &[])).0, default, "{number} of {abi:?}");
                }
            }
        }
        let other = if machine.abis.contains(&Abi::Arm) { Abi::I386 } else { Abi::Arm };
        assert_eq!(run(&program, &Call::new(other, 1, &[])).0, 0x8000_0000, "an ABI of another machine");
    }
}

/// The profile that podman uses; `None`, said aloud, where it is not installed (Debian: golang-github-containers-common).
fn reference() -> Option<String> {
    let path = "/usr/share/containers/seccomp.json";
    let text = std::fs::read_to_string(path);
    let must_work = std::env::var_os("D_MUST_WORK").is_some_and(|value| value == "1");
    assert!(text.is_ok() || !must_work, "{path} is needed: {text:?}");
    if text.is_err() {
        eprintln!("skipped: no {path}");
    }
    text.ok()
}

#[test]
fn builtin_is_the_profile_that_containers_ship() {
    let Some(text) = reference() else { return };
    // But for the keyrings.
    let json = serde_json::from_str(&text.replace("\"keyctl\"", "\"no_such_call\"")).unwrap();
    for machine in [Machine::X86_64, Machine::AARCH64] {
        compare(&Profile::builtin_for(&machine), &json, &machine);
    }
}

#[test]
fn the_same_profile_read_as_json() {
    let Some(text) = reference() else { return };
    let json = serde_json::from_str(&text).unwrap();
    for machine in [Machine::X86_64, Machine::AARCH64] {
        compare(&Profile::from_json_for(&machine, &text).unwrap(), &json, &machine);
    }
}

/// What Docker's profiles have beyond podman's: masks, kernel versions, both kinds of arches, rules that contradict.
#[test]
fn a_profile_with_everything() {
    let text = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.1"}},
            {"names": ["read", "write", "from_the_future"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["write"], "action": "SCMP_ACT_KILL"},
            {"names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["close"], "action": "SCMP_ACT_LOG", "args": null},
            {"names": ["dup"], "action": "SCMP_ACT_TRAP", "includes": {"caps": ["CAP_FROM_THE_FUTURE"]}},
            {"name": "dup", "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"caps": ["CAP_FROM_THE_FUTURE"]}},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_GE"}, {"index": 2, "value": 9, "op": "SCMP_CMP_LT"}]},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3, "args": [
                {"index": 2, "value": 4294967305, "op": "SCMP_CMP_NE"}]}
        ]}"#;
    let json = serde_json::from_str(text).unwrap();
    for machine in [Machine::X86_64, Machine::AARCH64] {
        compare(&Profile::from_json_for(&machine, text).unwrap(), &json, &machine);
    }
}

/// Every comparison and action goes out and comes back.
#[test]
fn what_the_build_compiled_is_the_profile() {
    let machine = Machine::host().unwrap();
    let words = |program: &[BpfInstruction]| program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect::<Vec<_>>();
    let compiled = super::builtin(KEPT[0]).unwrap();
    assert!(matches!(compiled, std::borrow::Cow::Borrowed(_)));
    assert_eq!(words(&compiled), words(&Profile::builtin_for(machine).compile(KEPT[0], KERNEL).unwrap()));
    assert_eq!(words(&super::fakeroot().unwrap()), words(&super::fakeroot::filter_for(machine).unwrap()));
}

#[test]
fn the_oci_form_makes_the_same_filter() {
    let compile = |profile: &Profile| -> Vec<(u16, u8, u8, u32)> {
        let program = profile.compile(KEPT[0], KERNEL).unwrap();
        program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
    };
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map(|op| {
        format!(
            r#"{{"name": "read", "action": "SCMP_ACT_TRAP",
                "args": [{{"index": 1, "value": 12, "valueTwo": 4, "op": "SCMP_CMP_{op}"}}]}}"#
        )
    });
    let each = [
        ("dup", "ALLOW"),
        ("pipe2", "LOG"),
        ("kill", "ERRNO"),
        ("open", "TRAP"),
        ("link", "KILL"),
        ("bpf", "KILL_PROCESS"),
    ];
    let actions = each.map(|(name, action)| {
        format!(r#"{{"name": "{name}", "action": "SCMP_ACT_{action}", "excludes": {{"caps": ["CAP_SYS_ADMIN"]}}}}"#)
    });
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5, "syscalls": [{},{}]}}"#,
        operators.join(","),
        actions.join(",")
    );
    for machine in [Machine::X86_64, Machine::AARCH64] {
        for profile in [Profile::builtin_for(&machine), Profile::from_json_for(&machine, &text).unwrap()] {
            let oci = profile.to_oci(KEPT[0], KERNEL).to_string();
            assert_eq!(compile(&Profile::from_json_for(&machine, &oci).unwrap()), compile(&profile));
        }
    }
}

fn ask(text: &str, abi: Abi, name: &str, arguments: &[u64]) -> u32 {
    let program = Profile::from_json_for(&Machine::X86_64, text).unwrap().compile(0, KERNEL).unwrap();
    run(&program, &Call::new(abi, numbers::number(numbers::row(name).unwrap(), abi).unwrap(), arguments)).0
}

#[test]
fn oci_lists_architectures_flat_and_others_die() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_S390X"],
                   "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#;
    assert_eq!(ask(text, Abi::X86_64, "mkdir", &[]), 0x5_0001);
    assert_eq!(ask(text, Abi::I386, "mkdir", &[]), 0x5_0001);
    assert_eq!(ask(text, Abi::X32, "mkdir", &[]), 0x8000_0000);
    assert_eq!(ask(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, Abi::I386, "mkdir", &[]), 0x8000_0000);
}

#[test]
fn the_second_door_to_sockets_is_shut_too() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
                   {"names": ["connect", "shmat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    assert_eq!(ask(text, Abi::I386, "connect", &[]), 0x5_000d);
    assert_eq!([2, 3, 4].map(|n| ask(text, Abi::I386, "socketcall", &[n])), [0x7fff_0000, 0x5_000d, 0x7fff_0000]);
    assert_eq!([21, 0x1_0015, 22].map(|n| ask(text, Abi::I386, "ipc", &[n])), [0x5_000d, 0x5_000d, 0x7fff_0000]);
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                   {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
    let answers = [0, 1, 2, 3].map(|family| ask(text, Abi::X86_64, "socket", &[family]) == 0x7fff_0000);
    assert_eq!(answers, [false, true, true, false]);
}

#[test]
fn what_cannot_be_honoured_is_named() {
    let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
    let action = |name: &str| rule(&format!(r#"{{"names": ["read"], "action": "{name}"}}"#));
    for (text, part) in [
        (action("SCMP_ACT_NOTIFY"), "SCMP_ACT_NOTIFY"),
        (action("SCMP_ACT_TRACE"), "SCMP_ACT_TRACE"),
        (action("SCMP_ACT_PLEASE"), "SCMP_ACT_PLEASE"),
        (rule(r#"{"names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW"}"#), "both name and names"),
        (rule(r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#), "4096"),
        (rule(r#"{"name": "a", "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}"#), "EWHAT"),
        (
            rule(r#"{"name": "a", "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#),
            "index 6",
        ),
        (rule(r#"{"name": "a", "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 0, "op": "=="}]}"#), "=="),
        (rule(r#"{"name": "a", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}"#), "new"),
        (
            r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}"#.to_owned(),
            "NEW_LISTENER",
        ),
        (r#"{"syscalls": []}"#.to_owned(), "defaultAction"),
        ("[".to_owned(), "EOF"),
    ] {
        let error = Profile::from_json_for(&Machine::X86_64, &text).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{error:#} for {text}");
    }
}

#[test]
fn a_profile_too_long_for_the_kernel_is_an_error() {
    for count in [2000, 100_000] {
        let argument = |value: u32| format!(r#"{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
        let arguments: Vec<String> = (0..count).map(argument).collect();
        let rule = format!(r#"{{"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{}]}}"#, arguments.join(","));
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#);
        let profile = Profile::from_json_for(&Machine::X86_64, &text).unwrap();
        assert!(profile.compile(0, KERNEL).unwrap_err().to_string().contains("instructions"), "{count}");
    }
}

/// The kernel remembers which calls a filter allows without a look at their arguments, and asks no more for them.
#[test]
fn most_calls_are_allowed_by_their_number_alone() {
    let program = Profile::builtin_for(&Machine::X86_64).compile(KEPT[0], KERNEL).unwrap();
    for name in ["read", "openat", "execve", "clone", "mmap", "futex", "ioctl", "newfstatat"] {
        let number = numbers::number(numbers::row(name).unwrap(), Abi::X86_64).unwrap();
        let (answer, steps) = run(&program, &Call::new(Abi::X86_64, number, &[]));
        assert!(answer == 0x7fff_0000 && steps < 16, "{name}: {answer:#x} after {steps} of {}", program.len());
    }
}
