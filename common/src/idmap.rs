//! Id maps: which ids inside a container are which ids outside (user_namespaces(7), subuid(5)).
//!
//! Pure: what a map is, how the subordinate-id files read, and which map a `--map` means given the [`Facts`] of the machine.
//! Gathering those facts and writing a map is [`crate::userns`]'s work.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;

use crate::exit::Exit;
use crate::fail;
use crate::options::Words;
use crate::options::value;

/// A run of ids: `count` of them from `inside` in the namespace are those from `outside`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A run of subordinate ids that a user may map: `start` and `count`.
pub type Range = (u32, u32);

/// The kernel accepts this many extents a map (user_namespaces(7)).
const MAX_EXTENTS: usize = 340;

/// What the user asks for with `--map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MapChoice {
    /// `subid` where it works, else `single` with a warning that says why.
    #[default]
    Auto,
    /// 0 is me, the rest my subordinate ids.
    Subid,
    /// One id, me.
    Single,
    /// My own id stays itself, the rest my subordinate ids around it.
    KeepId,
}

impl Words for MapChoice {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("subid", Self::Subid), ("single", Self::Single), ("keep-id", Self::KeepId)];
}

impl FromStr for MapChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        value::of(text.as_ref()).map_err(|why| format!("{text:?} is not a map: {why}"))
    }
}

impl fmt::Display for MapChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value::word(*self))
    }
}

/// A map that has been decided: its kind (never [`MapChoice::Auto`]) and its extents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdMap {
    /// What it is recorded as.
    pub kind: MapChoice,
    /// The users.
    pub uids: Vec<Extent>,
    /// The groups.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// One user and one group inside, which are the caller outside.
    pub fn single(facts: &Facts, inside_uid: u32, inside_gid: u32) -> Self {
        Self {
            kind: MapChoice::Single,
            uids: vec![Extent { inside: inside_uid, outside: facts.uid, count: 1 }],
            gids: vec![Extent { inside: inside_gid, outside: facts.gid, count: 1 }],
        }
    }

    /// Whether nothing but one id is mapped.
    pub fn is_single(&self) -> bool {
        self.kind == MapChoice::Single
    }
}

/// The id outside of `inside` under the extents, if it is mapped.
pub fn to_outside(extents: &[Extent], inside: u32) -> Option<u32> {
    let e = extents.iter().find(|e| inside >= e.inside && inside - e.inside < e.count)?;
    Some(e.outside + (inside - e.inside))
}

/// The id inside of `outside` under the extents, if it is mapped.
pub fn to_inside(extents: &[Extent], outside: u32) -> Option<u32> {
    let e = extents.iter().find(|e| outside >= e.outside && outside - e.outside < e.count)?;
    Some(e.inside + (outside - e.outside))
}

/// The lines that the kernel's uid_map takes: `INSIDE OUTSIDE COUNT`.
pub fn map_lines(extents: &[Extent]) -> String {
    extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
}

/// What the machine offers this user.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Subordinate users.
    pub uid_ranges: Vec<Range>,
    /// Subordinate groups.
    pub gid_ranges: Vec<Range>,
    /// Whether this process may write any map by itself (CAP_SETUID and CAP_SETGID): root, as a rule.
    pub privileged: bool,
    /// The ids that exist here (/proc/self/uid_map and gid_map, inside columns), for the privileged without ranges.
    pub own_uids: Vec<Range>,
    /// The groups that exist here.
    pub own_gids: Vec<Range>,
    /// Whether setgroups(2) is denied in this user namespace, and so in those below it.
    pub groups_denied: bool,
    /// Whether this is the namespace of another container, whose ids are shared on purpose.
    pub borrowed: bool,
    /// Why newuidmap and newgidmap are of no use, when they are not.
    pub helpers_missing: Option<String>,
}

/// A decided map and what the user should be told about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The map.
    pub map: IdMap,
    /// A warning, where the map is not what was hoped for.
    pub warning: Option<String>,
}

/// Decides what `choice` means here. `inside` is the user and group that a single map shows (0, 0 unless `User` says else).
///
/// # Errors
/// [`Exit::Unavailable`] when a map that was asked for by name cannot be had here.
pub fn decide(choice: MapChoice, facts: &Facts, inside: (u32, u32)) -> Result<Decision> {
    let plain = |map| Decision { map, warning: None };
    match choice {
        MapChoice::Single => Ok(plain(IdMap::single(facts, inside.0, inside.1))),
        MapChoice::Auto => match wide(facts, MapChoice::Subid) {
            Ok(decision) => Ok(decision),
            Err(why) => Ok(Decision {
                map: IdMap::single(facts, inside.0, inside.1),
                warning: Some(format!("using --map=single (one user id): {why}")),
            }),
        },
        MapChoice::Subid | MapChoice::KeepId => match wide(facts, choice) {
            Ok(decision) => Ok(decision),
            Err(why) => fail!(Exit::Unavailable, "cannot use --map={choice}: {why}; or take --map=single"),
        },
    }
}

/// The map of many ids, or why there is none.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn wide(facts: &Facts, kind: MapChoice) -> Result<Decision, String> {
    let no_ranges = facts.uid_ranges.is_empty() || facts.gid_ranges.is_empty();
    if facts.privileged && no_ranges {
        // A root (of a container, often) without ranges of its own: the ids that exist here, one to one.
        if [&facts.own_uids, &facts.own_gids].into_iter().any(|own| matches!(own.as_slice(), [(_, 1)])) {
            return Err("root has no subordinate ids, and its user namespace has one id only".to_owned());
        }
        let same = |own: &[Range]| own.iter().map(|&(s, n)| Extent { inside: s, outside: s, count: n }).collect();
        let map = IdMap { kind, uids: same(&facts.own_uids), gids: same(&facts.own_gids) };
        let warning =
            "no subordinate ids for root: root inside is root outside (usermod --add-subuids gives it a range)";
        return Ok(Decision { map, warning: (!facts.borrowed).then(|| warning.to_owned()) });
    }
    if let Some(why) = &facts.helpers_missing
        && !facts.privileged
    {
        return Err(why.clone());
    }
    for (ranges, file, option) in
        [(&facts.uid_ranges, "/etc/subuid", "subuids"), (&facts.gid_ranges, "/etc/subgid", "subgids")]
    {
        if ranges.is_empty() {
            return Err(format!(
                "no entry for uid {} in {file} (as root: usermod --add-{option} 100000-165535 USER)",
                facts.uid
            ));
        }
    }
    let lay = |me: u32, ranges: &[Range]| match (kind, facts.privileged) {
        // Root's own id must not appear inside: 0 is the first of its ranges.
        (_, true) => fill(&without(ranges, me), 0, &[]),
        (MapChoice::KeepId, _) => fill(&without(ranges, me), 0, &[(me, me)]),
        _ => fill(&without(ranges, me), 0, &[(0, me)]),
    };
    let map = IdMap { kind, uids: lay(facts.uid, &facts.uid_ranges), gids: lay(facts.gid, &facts.gid_ranges) };
    if map.uids.len() > MAX_EXTENTS || map.gids.len() > MAX_EXTENTS {
        return Err(format!("the subordinate ids are in more than {MAX_EXTENTS} pieces"));
    }
    Ok(Decision { map, warning: None })
}

/// `ranges` with the id `me` cut out: it may not be mapped twice.
fn without(ranges: &[Range], me: u32) -> Vec<Range> {
    let mut out = Vec::new();
    for &(start, count) in ranges {
        if me >= start && me - start < count {
            out.extend([(start, me - start), (me.wrapping_add(1), count - (me - start) - 1)]);
        } else {
            out.push((start, count));
        }
    }
    out.retain(|&(_, count)| count > 0);
    out
}

/// Lays `ranges` out one after the other from the inside id `next`, stepping over the `fixed` (inside, outside) pairs.
fn fill(ranges: &[Range], mut next: u32, fixed: &[(u32, u32)]) -> Vec<Extent> {
    let mut extents: Vec<Extent> =
        fixed.iter().map(|&(inside, outside)| Extent { inside, outside, count: 1 }).collect();
    let is_fixed = |id: u32| fixed.iter().any(|&(inside, _)| inside == id);
    for &(mut start, mut left) in ranges {
        while left > 0 && next < u32::MAX {
            if is_fixed(next) {
                next += 1;
                continue;
            }
            // Up to the next fixed id, to the end of the range, and never to the id -1, which means "no change" in the kernel.
            let gap = fixed.iter().filter(|&&(inside, _)| inside > next).map(|&(inside, _)| inside - next).min();
            let count = left.min(gap.unwrap_or(u32::MAX)).min(u32::MAX - next);
            extents.push(Extent { inside: next, outside: start, count });
            next += count;
            start = start.saturating_add(count);
            left -= count;
        }
    }
    extents.sort_by_key(|e| e.inside);
    extents
}

/// The ranges of one user in a subuid(5) or subgid(5) file: lines `OWNER:START:COUNT`, the owner by name or by uid. Lines that
/// do not read so are passed over, as newuidmap(1) does; overlapping ranges are taken once.
pub fn parse_subids(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let mut ranges: Vec<Range> = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(owner), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if owner != uid && Some(owner) != name {
            continue;
        }
        if let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) {
            push_disjoint(&mut ranges, start, count.min(u32::MAX - start));
        }
    }
    ranges
}

/// The same from getsubids(1): lines `INDEX: OWNER START COUNT`.
pub fn parse_getsubids(text: &str) -> Vec<Range> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, start, count] = fields.as_slice()
            && let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>())
        {
            push_disjoint(&mut ranges, start, count.min(u32::MAX - start));
        }
    }
    ranges
}

fn push_disjoint(ranges: &mut Vec<Range>, start: u32, count: u32) {
    let end = start.saturating_add(count);
    let overlaps = ranges.iter().any(|&(s, n)| start < s + n && s < end);
    if count > 0 && !overlaps {
        ranges.push((start, count));
    }
}

/// The ids that exist in this namespace: the first and third columns of /proc/self/uid_map.
pub fn parse_own_map(text: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u32>().ok());
        let (inside, _, count) = (fields.next()??, fields.next()?, fields.next()??);
        Some((inside, count))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            uid: 1000,
            gid: 1000,
            uid_ranges: vec![(100_000, 65_536)],
            gid_ranges: vec![(100_000, 65_536)],
            ..Facts::default()
        }
    }

    fn uids(choice: MapChoice, facts: &Facts) -> Vec<(u32, u32, u32)> {
        let map = decide(choice, facts, (0, 0)).unwrap().map;
        map.uids.iter().map(|e| (e.inside, e.outside, e.count)).collect()
    }

    #[test]
    fn subid_puts_me_at_zero() {
        assert_eq!(uids(MapChoice::Subid, &facts()), [(0, 1000, 1), (1, 100_000, 65_536)]);
        assert_eq!(uids(MapChoice::Auto, &facts()), uids(MapChoice::Subid, &facts()));
    }

    #[test]
    fn keep_id_puts_me_at_myself() {
        let expected = [(0, 100_000, 1000), (1000, 1000, 1), (1001, 101_000, 64_536)];
        assert_eq!(uids(MapChoice::KeepId, &facts()), expected);
    }

    #[test]
    fn my_own_id_inside_a_range_is_skipped() {
        let f = Facts { uid: 100_010, uid_ranges: vec![(100_000, 100)], ..facts() };
        assert_eq!(uids(MapChoice::Subid, &f), [(0, 100_010, 1), (1, 100_000, 10), (11, 100_011, 89)]);
    }

    #[test]
    fn several_ranges_and_huge_ids_are_laid_end_to_end() {
        let f = Facts { uid_ranges: vec![(3_000_000_000, 10), (7, 5)], ..facts() };
        assert_eq!(uids(MapChoice::Subid, &f), [(0, 1000, 1), (1, 3_000_000_000, 10), (11, 7, 5)]);
        let all = Facts { uid: 0, uid_ranges: vec![(1, u32::MAX - 1)], ..facts() };
        let extents = decide(MapChoice::Subid, &all, (0, 0)).unwrap().map.uids;
        assert!(extents.iter().all(|e| e.inside.checked_add(e.count).is_some()));
    }

    #[test]
    fn auto_falls_back_and_says_why_and_subid_does_not() {
        let f = Facts { uid_ranges: vec![], ..facts() };
        let d = decide(MapChoice::Auto, &f, (33, 33)).unwrap();
        assert_eq!(d.map.uids, [Extent { inside: 33, outside: 1000, count: 1 }]);
        assert!(d.warning.unwrap().contains("/etc/subuid"));
        assert!(decide(MapChoice::Subid, &f, (0, 0)).is_err());
        let f = Facts { helpers_missing: Some("newuidmap is not installed".into()), ..facts() };
        assert!(decide(MapChoice::Auto, &f, (0, 0)).unwrap().warning.unwrap().contains("newuidmap"));
    }

    #[test]
    fn root_takes_its_ranges_or_what_exists() {
        let f = Facts { uid: 0, gid: 0, privileged: true, ..facts() };
        assert_eq!(uids(MapChoice::Subid, &f), [(0, 100_000, 65_536)]);
        let f = Facts { uid_ranges: vec![], own_uids: vec![(0, 1), (1, 65_536)], ..f };
        assert_eq!(uids(MapChoice::Subid, &f), [(0, 0, 1), (1, 1, 65_536)]);
        assert!(decide(MapChoice::Auto, &f, (0, 0)).unwrap().warning.is_some());
        // Inside `unshare -r`.
        let f = Facts { own_uids: vec![(0, 1)], own_gids: vec![(0, 1)], ..f };
        assert!(decide(MapChoice::Auto, &f, (0, 0)).unwrap().map.is_single());
        assert!(decide(MapChoice::Subid, &f, (0, 0)).is_err());
    }

    #[test]
    fn subuid_lines_by_name_and_uid() {
        let text =
            "# c\nann:100000:65536\n1000:200000:10\nbob:1:1\nann:100001:5\nann:x:1\n1000:5:0\nann:4294967290:100\n";
        assert_eq!(parse_subids(text, Some("ann"), 1000), [(100_000, 65_536), (200_000, 10), (4_294_967_290, 5)]);
        assert_eq!(parse_subids(text, None, 1000), [(200_000, 10)]);
        assert_eq!(parse_getsubids("0: ann 100000 65536\n1: ann 300000 1\n"), [(100_000, 65_536), (300_000, 1)]);
        assert_eq!(parse_own_map("         0       1000          1\n 1 100000 65536\n"), [(0, 1), (1, 65_536)]);
    }

    #[test]
    fn ids_translate_both_ways() {
        let map = decide(MapChoice::Subid, &facts(), (0, 0)).unwrap().map;
        assert_eq!(to_outside(&map.uids, 0), Some(1000));
        assert_eq!(to_outside(&map.uids, 33), Some(100_032));
        assert_eq!(to_outside(&map.uids, 65_537), None);
        assert_eq!(to_inside(&map.uids, 100_032), Some(33));
        assert_eq!(map_lines(&map.uids), "0 1000 1\n1 100000 65536\n");
    }
}
