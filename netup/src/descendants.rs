//! The descendants of a process, nearest first, from the parent fields of /proc/*/stat (proc_pid_stat(5)).

use std::fs;

use rustix::process::Pid;

/// All descendants of `root`, nearest first.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let parents = pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parent(&stat)?))
    });
    below(root.as_raw_nonzero().get(), &parents.collect::<Vec<_>>()).into_iter().filter_map(Pid::from_raw).collect()
}

/// The fourth field; the second may hold any character, so counting starts behind its last parenthesis.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Breadth first over (child, parent) pairs.
fn below(root: i32, parents: &[(i32, i32)]) -> Vec<i32> {
    let mut order = vec![root];
    let mut next = 0;
    while let Some(&parent) = order.get(next) {
        // A list that was read while processes came and went may hold a circle.
        let children = parents.iter().filter(|(child, p)| *p == parent && !order.contains(child));
        let children: Vec<i32> = children.map(|(child, _)| *child).collect();
        order.extend(children);
        next += 1;
    }
    order.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_first_and_no_circles() {
        assert_eq!(below(1, &[(5, 4), (4, 1), (3, 1), (9, 8), (1, 5)]), [4, 3, 5]);
        assert!(below(7, &[(5, 4)]).is_empty());
    }

    #[test]
    fn names_with_parentheses() {
        assert_eq!(parent("12 (a) b) S 7 12 12"), Some(7));
        assert_eq!(parent("12 (cut"), None);
    }
}
