//! `--unmask`: which of the protected paths of /proc and /sys stay hidden or read-only inside.

use d_common::protected::{MASKED, READONLY};

/// The masked and the read-only paths without those that `--unmask` names (`ALL` names every one).
pub fn protected(unmask: &[String]) -> (Vec<String>, Vec<String>) {
    (without(&MASKED, unmask), without(&READONLY, unmask))
}

/// A list of paths without those that `--unmask` names.
pub fn without(paths: &[impl AsRef<str>], unmask: &[String]) -> Vec<String> {
    let open = |path: &str| {
        unmask
            .iter()
            .flat_map(|u| u.split([',', ':']))
            .any(|u| u.eq_ignore_ascii_case("all") || u.trim_end_matches('/') == path)
    };
    paths.iter().map(AsRef::as_ref).filter(|p| !open(p)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_by_name_or_all() {
        let (masked, readonly) = protected(&["/proc/kcore".into(), "/proc/sys/".into()]);
        assert!(!masked.contains(&"/proc/kcore".to_owned()) && !readonly.contains(&"/proc/sys".to_owned()));
        assert!(masked.contains(&"/proc/keys".to_owned()));
        assert_eq!(protected(&["all".into()]), (vec![], vec![]));
    }
}
