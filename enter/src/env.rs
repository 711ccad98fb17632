//! The environment of the command. It starts empty: nothing of the caller's is inside unless it was asked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;

/// The PATH where the image names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order they were first set; a later value takes the place of an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Sets one variable.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Sets `NAME=VALUE`; a bare `NAME` is taken from `caller`, and unset where the caller has none (docker's rule).
    ///
    /// # Errors
    /// [`Exit::Enter`] without a name.
    pub fn set_spec(&mut self, spec: &OsStr, caller: &dyn Fn(&OsStr) -> Option<OsString>) -> Result<()> {
        let bytes = spec.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            Some(i) => (&bytes[..i], Some(OsString::from_vec(bytes[i + 1..].to_vec()))),
            None => (bytes, caller(spec)),
        };
        if name.is_empty() {
            fail!(Exit::Enter, "{:?} is no environment variable: expected NAME=VALUE", spec.display().to_string());
        }
        match value {
            Some(value) => self.set(OsStr::from_bytes(name), value),
            None => self.0.retain(|(n, _)| n.as_bytes() != name),
        }
        Ok(())
    }

    /// The value of one variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str())
    }

    /// `NAME=VALUE` of each, as execve(2) takes them.
    pub fn strings(&self) -> impl Iterator<Item = OsString> {
        self.0.iter().map(|(name, value)| {
            let mut string = name.clone();
            string.push("=");
            string.push(value);
            string
        })
    }
}

/// The lines of an env file (`docker run --env-file`): `NAME=VALUE` or `NAME`, without quoting; `#` starts a comment line.
///
/// # Errors
/// [`Exit::Enter`] for a name with a space in it.
pub fn parse_env_file(text: &[u8]) -> Result<Vec<OsString>> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let lines = text.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).map(<[u8]>::trim_ascii_start);
    let checked = |line: &[u8]| {
        let name = line.split(|b| *b == b'=').next().unwrap_or_default();
        if name.trim_ascii_end().iter().any(u8::is_ascii_whitespace) {
            fail!(Exit::Enter, "--env-file: the name {:?} has a space in it", String::from_utf8_lossy(name));
        }
        Ok(OsString::from_vec(line.to_vec()))
    };
    lines.filter(|l| !l.is_empty() && !l.starts_with(b"#")).map(checked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_values_win_in_place() {
        let mut env = Environment::default();
        let caller = |n: &OsStr| (n == "HOSTVAR").then(|| OsString::from("h"));
        env.set("PATH", DEFAULT_PATH);
        for spec in ["A=1", "PATH=/bin", "HOSTVAR", "A=2=3", "GONE=1", "GONE", "E="] {
            env.set_spec(OsStr::new(spec), &caller).unwrap();
        }
        let strings: Vec<OsString> = env.strings().collect();
        assert_eq!(strings, ["PATH=/bin", "A=2=3", "HOSTVAR=h", "E="]);
        assert!(env.set_spec(OsStr::new("=x"), &caller).is_err());
    }

    #[test]
    fn env_files_are_not_shell() {
        let lines = parse_env_file(b"\xef\xbb\xbf# c\nA=\"q\"\r\n\n  B\nC=1 2 \n").unwrap();
        assert_eq!(lines, ["A=\"q\"", "B", "C=1 2 "]);
        assert!(parse_env_file(b"my var=1").is_err());
    }
}
