//! `--exclude GLOB`: which paths of an image are left out.
//!
//! As in .gitignore: a pattern without a slash is matched against each name, one with a slash against the whole path from the
//! root; `*` and `?` stop at slashes, `**` does not; a slash at its end matches directories only. What matches takes all beneath
//! it along.

/// The patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// As it was given.
    text: String,
    /// Components of an anchored pattern, or the one name of a free one.
    parts: Vec<Vec<u8>>,
    is_anchored: bool,
    /// Whether it matches directories only.
    is_for_dirs: bool,
}

impl Exclude {
    /// Reads the patterns.
    pub fn new(globs: &[String]) -> Self {
        let pattern = |glob: &String| {
            let trimmed = glob.trim_end_matches('/');
            let inner = trimmed.strip_prefix("./").unwrap_or(trimmed).trim_start_matches('/');
            let parts = inner.split('/').filter(|p| !p.is_empty()).map(|p| p.as_bytes().to_vec()).collect();
            let (is_anchored, is_for_dirs) = (trimmed.contains('/'), trimmed.len() < glob.len());
            Pattern { text: glob.clone(), parts, is_anchored, is_for_dirs }
        };
        Self(globs.iter().map(pattern).filter(|p| !p.parts.is_empty()).collect())
    }

    /// The patterns as they were given.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|p| p.text.as_str())
    }

    /// Whether the path (without a leading slash), of a directory or of something else, or a directory above it is excluded.
    pub fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        self.0.iter().any(|pattern| {
            let names = if pattern.is_for_dirs && !is_dir { &names[..names.len() - 1] } else { &names[..] };
            match (pattern.is_anchored, pattern.parts.as_slice()) {
                (true, parts) => (1..=names.len()).any(|n| path_matches(parts, &names[..n])),
                (false, [part]) => names.iter().any(|name| name_matches(part, name)),
                (false, _) => false,
            }
        })
    }
}

fn path_matches(parts: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match (parts.split_first(), names.split_first()) {
        (None, None) => true,
        (Some((part, rest)), _) if part == b"**" => {
            // Something must be left for a last `**`: `usr/**` keeps usr itself.
            let start = usize::from(rest.is_empty());
            (start..=names.len()).any(|n| path_matches(rest, &names[n..]))
        }
        (Some((part, rest)), Some((name, names))) => name_matches(part, name) && path_matches(rest, names),
        _ => false,
    }
}

/// `*`, `?`, `[a-z]`, `[!a-z]`, `\x`, in linear time but for the products of stars, which are taken greedily with one retreat.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retreat: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            retreat = Some((p + 1, n));
            p += 1;
            continue;
        }
        match (one(&pattern[p..], name.get(n)), retreat) {
            (Some(0), _) => return true,
            (Some(len), _) => {
                p += len;
                n += 1;
            }
            (None, Some((after, from))) if from < name.len() => {
                retreat = Some((after, from + 1));
                p = after;
                n = from + 1;
            }
            (None, _) => return false,
        }
    }
}

/// The length of the pattern's first element if it takes `byte`; 0 when both are at their end.
fn one(pattern: &[u8], byte: Option<&u8>) -> Option<usize> {
    match (pattern, byte) {
        ([], None) => Some(0),
        ([], Some(_)) | (_, None) => None,
        ([b'?', ..], Some(_)) => Some(1),
        ([b'\\', literal, ..], Some(byte)) => (literal == byte).then_some(2),
        ([b'[', set @ ..], Some(byte)) => match class(set, *byte) {
            Some((len, takes)) => takes.then_some(len + 1),
            None => (*byte == b'[').then_some(1),
        },
        ([literal, ..], Some(byte)) => (literal == byte).then_some(1),
    }
}

/// The length of a bracket expression (behind its `[`) and whether it takes `byte`; `None` when it has no end.
fn class(set: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let end = start + 1 + set.get(start + 1..)?.iter().position(|b| *b == b']')?;
    let mut members = &set[start..end];
    let mut found = false;
    while let Some((&low, rest)) = members.split_first() {
        if let [b'-', high, tail @ ..] = rest {
            found |= (low..=*high).contains(&byte);
            members = tail;
        } else {
            found |= low == byte;
            members = rest;
        }
    }
    Some((end + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, path, expected) in [
            ("*.pyc", "usr/lib/a.pyc", true),
            ("*.pyc", "a.py", false),
            ("doc", "usr/share/doc/x/y", true),
            ("/usr/share/doc", "usr/share/doc", true),
            ("usr/share/doc/", "usr/share/doc/x", true),
            ("usr/share/doc", "opt/usr/share/doc", false),
            ("/doc", "usr/doc", false),
            ("usr/share/*", "usr/share/a/b", true),
            ("usr/*/doc", "usr/a/b/doc", false),
            ("usr/**/doc", "usr/a/b/doc", true),
            ("usr/**", "usr", false),
            ("usr/**", "usr/a/b", true),
            ("**/doc", "doc", true),
            ("[a-c]?[!x]", "b1y", true),
            ("[a-c]?[!x]", "b1x", false),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "a", false),
            ("/", "a", false),
        ] {
            assert_eq!(Exclude::new(&[glob.to_owned()]).matches(path.as_bytes(), false), expected, "{glob} {path}");
        }
        for (glob, expected) in [("doc/", true), ("usr/doc/", true), ("/doc/", false), ("usr/**/", true)] {
            let exclude = Exclude::new(&[glob.to_owned()]);
            assert_eq!(exclude.matches(b"usr/doc", true), expected, "{glob}");
            assert_eq!(exclude.matches(b"usr/doc/x", false), expected, "{glob}");
            assert!(!exclude.matches(b"usr/doc", false), "{glob}");
        }
        let long = "a*".repeat(40) + "b";
        assert!(!Exclude::new(&[long]).matches(&b"a".repeat(250), false));
    }
}
