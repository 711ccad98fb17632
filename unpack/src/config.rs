//! config.json: what d-enter runs. An image says how it wants to be run in Docker's keys, and in nothing else: every other
//! key, and every value of a wrong type or shape, is dropped here, so that no image chooses an option of d-enter
//! (d-container(5)).

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use d_common::idmap::MapChoice;
use d_common::signal::signal_number;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::image::unreadable;

/// Members of a list that are taken at most.
const MAX_ITEMS: usize = 4096;

/// The longest string, in bytes: what execve(2) takes for one argument.
const MAX_STRING: usize = 128 << 10;

/// The longest value, in bytes of JSON: some hundred times as much memory holds it.
const MAX_TEXT: usize = 256 << 10;

/// What of a value is taken; `None` when its type is wrong.
type Check = fn(&Value) -> Option<Value>;

/// Docker's keys, in the order in which they are written.
const KEYS: [(&str, Check); 9] = [
    ("Hostname", hostname),
    ("WorkingDir", directory),
    ("Env", env),
    ("Volumes", volumes),
    ("Entrypoint", strings),
    ("Cmd", strings),
    ("User", user),
    ("StopSignal", signal),
    ("ExposedPorts", ports),
];

/// What an image's config became.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The content of config.json.
    pub config: Value,
    /// The keys and values that were dropped.
    pub dropped: Vec<String>,
}

/// Converts the config object of an image (`{}` for an archive that is none) and adds the `map`. Memory is bounded: what is not
/// taken is never more than text, and one key's value is read at a time.
///
/// # Errors
/// [`d_common::exit::Exit::Data`] when it is no JSON object.
pub fn convert(image: &[u8], map: MapChoice) -> Result<Converted> {
    let wrong = |e| unreadable("the image's config", image, &e);
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(image).map_err(wrong)?;
    let given = members.get("config").map(|raw| raw.get()).filter(|text| *text != "null").unwrap_or("{}");
    let mut config = Map::new();
    let mut dropped: Vec<String> = members.into_keys().filter(|key| !is_images_own(key)).take(MAX_ITEMS).collect();
    // What is no object asks for nothing.
    let given: BTreeMap<String, &RawValue> = serde_json::from_str(given).unwrap_or_else(|_| {
        dropped.push("config, which is no object".to_owned());
        BTreeMap::new()
    });
    dropped.extend(given.keys().filter(|key| !KEYS.iter().any(|(k, _)| k == key)).take(MAX_ITEMS).cloned());
    for (key, check) in KEYS {
        let Some(text) = given.get(key).map(|raw| raw.get()) else { continue };
        let value = if text.len() > MAX_TEXT { None } else { serde_json::from_str(text).ok() };
        match value.as_ref().map(|value| (value, check(value))) {
            Some((Value::Null, _)) => {}
            Some((value, Some(taken))) => {
                dropped.extend(missing(&taken, value).map(|part| format!("{key} {part}")));
                if !is_empty(&taken) {
                    config.insert(key.to_owned(), taken);
                }
            }
            _ => dropped.push(key.to_owned()),
        }
    }
    config.insert("map".to_owned(), json!(map.to_string()));
    Ok(Converted { config: Value::Object(config), dropped })
}

/// The text of a config.json with `map` in it as d-unpack's own key, and all the rest as its user wrote it; `None` when nothing
/// is to be changed: it says so already, or is no JSON object, or an OCI runtime config, which has its map elsewhere.
pub fn with_map(text: &str, map: MapChoice) -> Option<String> {
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    if members.contains_key("ociVersion") {
        return None;
    }
    let value = json!(map.to_string()).to_string();
    let Some(old) = members.get("map").map(|raw| raw.get()) else {
        // The first member, with the white space of the one that was first.
        let (open, rest) = text.split_once('{')?;
        let space = &rest[..rest.len() - rest.trim_start().len()];
        let comma = if members.is_empty() { "" } else { "," };
        return Some(format!("{open}{{{space}\"map\": {value}{comma}{rest}"));
    };
    // It is a slice of the text.
    let start = old.as_ptr().addr() - text.as_ptr().addr();
    (old != value).then(|| format!("{}{value}{}", &text[..start], &text[start + old.len()..]))
}

/// What was taken out of a list or of the keys of an object.
fn missing(taken: &Value, given: &Value) -> impl Iterator<Item = String> {
    let parts = |value: &Value| match value {
        Value::Array(list) => list.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect(),
        Value::Object(object) => object.keys().cloned().collect(),
        _ => Vec::new(),
    };
    let taken: HashSet<String> = parts(taken).into_iter().collect();
    parts(given).into_iter().filter(move |part| !taken.contains(part))
}

/// Whether a member of an image's config is what image-spec config.md, Docker or BuildKit put there, and nobody looks for more.
fn is_images_own(key: &str) -> bool {
    const KNOWN: [&str; 19] = [
        "architecture",
        "author",
        "checksum",
        "comment",
        "config",
        "container",
        "container_config",
        "created",
        "docker_version",
        "history",
        "id",
        "os",
        "os.features",
        "os.version",
        "parent",
        "rootfs",
        "Size",
        "throwaway",
        "variant",
    ];
    KNOWN.contains(&key) || key.starts_with("moby.buildkit.")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// A string that can be an argument.
fn string(value: &Value) -> Option<&str> {
    value.as_str().filter(|s| s.len() <= MAX_STRING && !s.contains('\0'))
}

/// One line of text.
fn line(value: &Value) -> Option<&str> {
    string(value).filter(|s| !s.contains(char::is_control))
}

/// An absolute path; one that is not is meant from the root, as d-enter has it.
fn directory(value: &Value) -> Option<Value> {
    line(value).map(|s| if s.is_empty() || s.starts_with('/') { json!(s) } else { json!(format!("/{s}")) })
}

/// `USER[:GROUP]`, names or ids of 32 bits; the last of those means "none" to the kernel.
fn user(value: &Value) -> Option<Value> {
    let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let fits = |s: &str| !s.contains(':') && (!is_number(s) || s.parse::<u32>().is_ok_and(|id| id != u32::MAX));
    let text = line(value)?;
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    (fits(user) && fits(group)).then(|| json!(text))
}

/// A signal that d-enter knows.
fn signal(value: &Value) -> Option<Value> {
    string(value).filter(|s| s.is_empty() || signal_number(s).is_some()).map(|s| json!(s))
}

/// A host name as sethostname(2) takes it.
fn hostname(value: &Value) -> Option<Value> {
    let fits =
        |s: &&str| s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    string(value).filter(fits).map(|s| json!(s))
}

/// Arguments: all of them or none, since a command without one of its words is another command.
fn strings(value: &Value) -> Option<Value> {
    let list = value.as_array().filter(|l| l.len() <= MAX_ITEMS)?;
    list.iter().map(|v| string(v).map(|s| json!(s))).collect::<Option<Vec<_>>>().map(Value::Array)
}

/// `NAME=VALUE` each.
fn env(value: &Value) -> Option<Value> {
    let is_variable =
        |s: &&str| s.split_once('=').is_some_and(|(name, _)| !name.is_empty() && !name.contains(char::is_control));
    let list = value.as_array().filter(|l| l.len() <= MAX_ITEMS)?;
    Some(list.iter().filter_map(string).filter(is_variable).map(|s| json!(s)).collect())
}

/// Paths inside: absolute, below the root and not back up, and without the colon that would make them `SRC:DST`.
fn volumes(value: &Value) -> Option<Value> {
    keys(value, |path| {
        let mut names = path.split('/').filter(|name| !matches!(*name, "" | ".")).peekable();
        let is_below = path.starts_with('/') && names.peek().is_some() && names.all(|name| name != "..");
        is_below && !path.contains(':') && !path.contains(char::is_control) && path.len() <= 4095
    })
}

/// `PORT[/PROTOCOL]`, ports or ranges of them, that can be forwarded.
fn ports(value: &Value) -> Option<Value> {
    keys(value, |port| {
        let (numbers, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let number = |n: &str| n.bytes().all(|b| b.is_ascii_digit()).then(|| n.parse::<u16>().ok())?.filter(|n| *n > 0);
        let is_range = number(first).zip(number(last)).is_some_and(|(first, last)| first <= last);
        matches!(protocol, "tcp" | "udp") && is_range
    })
}

/// The keys of an object that pass; their values say nothing.
fn keys(value: &Value, passes: impl Fn(&str) -> bool) -> Option<Value> {
    let object = value.as_object().filter(|o| o.len() <= MAX_ITEMS)?;
    Some(Value::Object(object.keys().filter(|key| passes(key)).map(|key| (key.clone(), json!({}))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(config: &Value) -> Converted {
        convert(json!({ "config": config, "architecture": "amd64" }).to_string().as_bytes(), MapChoice::Subid).unwrap()
    }

    #[test]
    fn dockers_keys_pass() {
        let config = json!({
            "Hostname": "box", "WorkingDir": "/srv", "Env": ["A=b\nc", "B="], "Volumes": {"/data": {}},
            "Entrypoint": ["/init", ""], "Cmd": ["x\ty"], "User": "1000:1000", "StopSignal": "SIGQUIT",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "1000-2000": {}},
        });
        let c = converted(&config);
        assert!(c.dropped.is_empty(), "{:?}", c.dropped);
        let mut expected = config;
        expected["map"] = json!("subid");
        assert_eq!(c.config, expected);
    }

    #[test]
    fn an_image_chooses_nothing_else() {
        let c = converted(&json!({
            "net": true, "seccomp": "none", "volume": ["/:/host"], "ociVersion": "1.0", "map": "single", "Labels": {"a": "b"},
            "Volumes": {"/home:/mnt": {}, "relative": {}, "/ok": {}, "/a\nb": {}, "/": {}, "/.": {},
                        "/a/../../b": {}},
            "Env": ["OK=1", "no equals", "=x", "N\u{0}=1", 7, "A\nB=c"],
            "Cmd": ["sh", 1], "Entrypoint": "sh -c", "User": 0, "WorkingDir": "/a\nb", "Hostname": "a b",
            "ExposedPorts": {"80/xyz": {}, "0": {}, "70000/tcp": {}, "80/sctp": {}, "80-70/tcp": {}, "+1": {}, "1-2-3": {}},
            "StopSignal": "SIGFOO",
        }));
        let expected = json!({"Env": ["OK=1"], "Volumes": {"/ok": {}}, "map": "subid"});
        assert_eq!(c.config, expected);
        for key in [
            "net",
            "ociVersion",
            "map",
            "Cmd",
            "Entrypoint",
            "User",
            "StopSignal",
            "Env =x",
            "Env 7",
            "WorkingDir",
            "Volumes /home:/mnt",
            "Volumes relative",
            "ExposedPorts 80/sctp",
            "ExposedPorts 80-70/tcp",
            "ExposedPorts 1-2-3",
        ] {
            assert!(c.dropped.iter().any(|d| d == key), "{key} in {:?}", c.dropped);
        }
        for user in ["a:b:c", "99999999999", "4294967295", "a:99999999999", "a\nb"] {
            assert_eq!(converted(&json!({ "User": user })).dropped, ["User"], "{user}");
        }
        assert_eq!(converted(&json!({ "WorkingDir": "app" })).config["WorkingDir"], "/app");
        let c = convert(br#"{"net":true,"os":"linux","config":["x"]}"#, MapChoice::Subid).unwrap();
        assert_eq!(c.dropped, ["net", "config, which is no object"]);
    }

    #[test]
    fn the_map_is_put_right_and_nothing_else() {
        let with = |text: &str| with_map(text, MapChoice::Subid);
        for (text, expected) in [
            (
                "{\n  \"net\": true,\n  \"map\":  \"single\", \"x\":[1 ,2]}\n",
                "{\n  \"net\": true,\n  \"map\":  \"subid\", \"x\":[1 ,2]}\n",
            ),
            (r#"{"x":{"map":"single"},"map":null}"#, r#"{"x":{"map":"single"},"map":"subid"}"#),
            ("{\n  \"net\": 1\n}", "{\n  \"map\": \"subid\",\n  \"net\": 1\n}"),
            ("{}", r#"{"map": "subid"}"#),
        ] {
            assert_eq!(with(text).as_deref(), Some(expected), "{text}");
        }
        for text in [r#"{"map" : "subid"}"#, "[]", "{", r#"{"ociVersion":"1.0.2"}"#] {
            assert_eq!(with(text), None, "{text}");
        }
    }

    #[test]
    fn nonsense_and_nulls_are_nothing() {
        for config in [json!(null), json!({}), json!({"Env": null, "Cmd": null, "Volumes": null})] {
            assert_eq!(converted(&config), Converted { config: json!({"map": "subid"}), dropped: vec![] });
        }
        let many: Vec<String> = (0..=MAX_ITEMS).map(|i| format!("A{i}=")).collect();
        assert_eq!(converted(&json!({ "Env": many })).dropped, ["Env"]);
        assert_eq!(converted(&json!({ "Env": vec![json!([0]); MAX_TEXT] })).dropped, ["Env"]);
        assert!(convert(b"{", MapChoice::Subid).is_err());
    }
}
