//! Reading members of a config by JSON pointer (RFC 6901), so that every error names the key: `config.json: process.user.uid: ...`.

use anyhow::Result;
use d_common::exit::{Exit, failure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The member at `pointer`; `None` where it is missing or null.
///
/// # Errors
/// [`Exit::Enter`] for a member of another type.
pub(super) fn get<T: DeserializeOwned>(json: &Value, pointer: &str) -> Result<Option<T>> {
    match json.pointer(pointer).filter(|v| !v.is_null()) {
        None => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|e| wrong(pointer, e)),
    }
}

/// The same, with the type's default where it is missing.
///
/// # Errors
/// As [`get`].
pub(super) fn or_default<T: DeserializeOwned + Default>(json: &Value, pointer: &str) -> Result<T> {
    Ok(get(json, pointer)?.unwrap_or_default())
}

/// What is wrong with the member at `pointer`.
pub(super) fn wrong(pointer: &str, why: impl std::fmt::Display) -> anyhow::Error {
    failure(Exit::Enter, format!("config.json: {}: {why}", name(pointer)))
}

/// `/mounts/3/type` as `mounts[3].type`.
fn name(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |name, part| match part {
        index if index.bytes().all(|b| b.is_ascii_digit()) && !index.is_empty() => format!("{name}[{index}]"),
        key if name.is_empty() => key.to_owned(),
        key => format!("{name}.{key}"),
    })
}

/// Whether a value says nothing: null, false, 0, an empty text, or a list or object of nothing else.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_name_the_key() {
        let config = json!({"process": {"user": {"uid": "x"}}, "mounts": [{"type": 1}], "root": null});
        let error = |pointer: &str| get::<u32>(&config, pointer).unwrap_err().to_string();
        assert!(error("/process/user/uid").starts_with("config.json: process.user.uid: "));
        assert!(get::<String>(&config, "/mounts/0/type").unwrap_err().to_string().contains("mounts[0].type"));
        assert_eq!(get::<String>(&config, "/root/path").unwrap(), None);
        assert!(or_default::<Vec<u32>>(&config, "/nothing").unwrap().is_empty());
    }

    #[test]
    fn what_says_nothing() {
        assert!(is_empty(&json!({"prestart": [], "poststop": null, "deep": {"limit": 0, "on": false, "text": ""}})));
        assert!(!is_empty(&json!({"prestart": [{"path": "/x"}]})));
    }
}
