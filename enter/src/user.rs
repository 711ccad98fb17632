//! Who the command is: `--user` and `User` resolved by the passwd(5) and group(5) of the image.
//!
//! The rules are docker's: a name or a uid, and with `:GROUP` that group alone, else the primary and the supplementary groups
//! of the image's files; a numeric uid without an entry has group 0 and the home `/`.

use anyhow::Result;
use d_common::exit::Exit;
use d_common::fail;
use serde::Serialize;

/// A user as it is inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Primary group inside.
    pub gid: u32,
    /// Supplementary groups inside.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// Its name in the image's passwd, if it has one.
    pub name: Option<String>,
}

/// One line of a passwd file.
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some(PasswdEntry {
            name: f.first()?,
            uid: f.get(2)?.parse().ok()?,
            gid: f.get(3)?.parse().ok()?,
            home: f.get(5).copied().unwrap_or(""),
        })
    })
}

/// `(name, gid, members)` of each line of a group file.
fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, Vec<&str>)> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        let members = f.get(3).map(|m| m.split(',').map(str::trim).collect()).unwrap_or_default();
        Some((*f.first()?, f.get(2)?.parse().ok()?, members))
    })
}

/// An id as a number: what fits into 32 bits but for -1, which means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

/// Resolves `USER[:GROUP]` by the texts of the image's passwd and group files (empty where it has none).
///
/// # Errors
/// [`Exit::Enter`] for a name that the image does not know.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let entry = match number(user) {
        // A name of digits only is a name to docker too, where the image has it.
        Some(uid) => passwd_entries(passwd).find(|e| e.name == user || e.uid == uid),
        None => match passwd_entries(passwd).find(|e| e.name == user) {
            Some(entry) => Some(entry),
            None if user.is_empty() => passwd_entries(passwd).find(|e| e.uid == 0),
            None => fail!(Exit::Enter, "user {user:?} is not in the /etc/passwd of the root filesystem; give a number"),
        },
    };
    let uid = entry.as_ref().map_or_else(|| number(user).unwrap_or(0), |e| e.uid);
    let name = entry.as_ref().map(|e| e.name.to_owned());
    let home = entry.as_ref().map(|e| e.home).filter(|h| h.starts_with('/')).unwrap_or("/").to_owned();
    let (gid, groups) = match wanted_group.filter(|g| !g.is_empty()) {
        Some(wanted) => (resolve_group(wanted, group)?, Vec::new()),
        None => {
            let gid = entry.as_ref().map_or(0, |e| e.gid);
            let member = |members: &[&str]| name.as_deref().is_some_and(|n| members.contains(&n));
            let mut groups: Vec<u32> = group_entries(group).filter(|(_, _, m)| member(m)).map(|(_, g, _)| g).collect();
            groups.sort_unstable();
            groups.dedup();
            (gid, groups)
        }
    };
    Ok(User { uid, gid, groups, home, name })
}

fn resolve_group(wanted: &str, group: &str) -> Result<u32> {
    match group_entries(group).find(|(name, _, _)| *name == wanted) {
        Some((_, gid, _)) => Ok(gid),
        None => match number(wanted) {
            Some(gid) => Ok(gid),
            None => {
                fail!(Exit::Enter, "group {wanted:?} is not in the /etc/group of the root filesystem; give a number")
            }
        },
    }
}

/// The image's passwd with a line for `user` added, where it has none: many programs refuse to run as nobody.
pub fn passwd_with(passwd: &str, user: &User, name: &str) -> Option<String> {
    if passwd_entries(passwd).any(|e| e.uid == user.uid) {
        return None;
    }
    let name =
        if passwd_entries(passwd).any(|e| e.name == name) { format!("user{}", user.uid) } else { name.to_owned() };
    Some(format!("{}{name}:x:{}:{}:{name}:{}:/bin/sh\n", lines(passwd), user.uid, user.gid, user.home))
}

/// The image's group file with a line for the user's group added, where it has none.
pub fn group_with(group: &str, user: &User, name: &str) -> Option<String> {
    if group_entries(group).any(|(_, gid, _)| gid == user.gid) {
        return None;
    }
    let name =
        if group_entries(group).any(|(n, _, _)| n == name) { format!("group{}", user.gid) } else { name.to_owned() };
    Some(format!("{}{name}:x:{}:\n", lines(group), user.gid))
}

/// `text`, ending with a newline unless it is empty.
fn lines(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33:www:/var/www:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\ntape:x:26:www-data\naudio:x:29:pulse,www-data\n";

    fn user(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let u = resolve(spec, PASSWD, GROUP).unwrap();
        (u.uid, u.gid, u.groups, u.home)
    }

    #[test]
    fn by_name_number_and_group() {
        assert_eq!(user("www-data"), (33, 33, vec![26, 29], "/var/www".into()));
        assert_eq!(user("33"), (33, 33, vec![26, 29], "/var/www".into()));
        assert_eq!(user("33:tape"), (33, 26, vec![], "/var/www".into()));
        assert_eq!(user("www-data:100"), (33, 100, vec![], "/var/www".into()));
        assert_eq!(user("1234"), (1234, 0, vec![], "/".into()));
        assert_eq!(user("4294967294:4294967294").0, u32::MAX - 1);
        assert_eq!(user(""), (0, 0, vec![], "/root".into()));
        assert_eq!(resolve("0", "", "").unwrap().home, "/");
    }

    #[test]
    fn unknown_names_are_named() {
        for bad in ["nobody", "root:nogroup", "4294967295", "-1", "99999999999"] {
            assert!(resolve(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
    }

    #[test]
    fn nameless_users_get_a_line() {
        let u = resolve("1234", PASSWD, GROUP).unwrap();
        assert!(passwd_with(PASSWD, &u, "ann").unwrap().ends_with("ann:x:1234:0:ann:/:/bin/sh\n"));
        assert_eq!(group_with(GROUP, &u, "ann"), None);
        assert_eq!(passwd_with(PASSWD, &resolve("0", PASSWD, GROUP).unwrap(), "ann"), None);
    }
}
