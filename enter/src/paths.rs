//! `--unmask`: which of the protected paths of /proc and /sys stay hidden or read-only inside.

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use d_common::protected::{MASKED, READONLY};

/// The masked and the read-only paths without those that `--unmask` names (`ALL` names every one).
///
/// # Errors
/// [`Exit::Enter`] for what is neither a path nor `ALL`.
pub fn protected(unmask: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    if let Some(word) = words(unmask).find(|word| !is_all(word) && !word.starts_with('/')) {
        fail!(Exit::Enter, "--unmask {word:?} is neither an absolute path nor ALL");
    }
    Ok((without(&MASKED, unmask), without(&READONLY, unmask)))
}

fn words(unmask: &[String]) -> impl Iterator<Item = &str> {
    unmask.iter().flat_map(|list| list.split([',', ':']))
}

fn is_all(word: &str) -> bool {
    word.eq_ignore_ascii_case("all")
}

/// A list of paths without those that `--unmask` names.
pub fn without(paths: &[impl AsRef<str>], unmask: &[String]) -> Vec<String> {
    let open = |path: &str| words(unmask).any(|word| is_all(word) || word.trim_end_matches('/') == path);
    paths.iter().map(AsRef::as_ref).filter(|p| !open(p)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_by_name_or_all() {
        let (masked, readonly) = protected(&["/proc/kcore".into(), "/proc/sys/".into()]).unwrap();
        assert!(!masked.contains(&"/proc/kcore".to_owned()) && !readonly.contains(&"/proc/sys".to_owned()));
        assert!(masked.contains(&"/proc/keys".to_owned()));
        assert_eq!(protected(&["all".into()]).unwrap(), (vec![], vec![]));
        assert!(protected(&["proc/sys".into()]).is_err() && protected(&[String::new()]).is_err());
    }
}
