//! Processes of this machine as `/proc` shows them: see proc(5). Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

/// Some fields of `/proc/PID/stat`.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Clock ticks since boot.
    pub(crate) started: u64,
}

impl Stat {
    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
    }

    /// The second field is a name in parentheses that may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// It has ended, and its parent has not asked how.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Every process that still runs.
pub(crate) fn each_running(mut look: impl FnMut(i32, &Stat)) -> io::Result<()> {
    each(|number, stat| {
        if !stat.is_over() {
            look(number, stat);
        }
    })
}

fn each(mut look: impl FnMut(i32, &Stat)) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && let Some(stat) = Stat::of(number)
        {
            look(number, &stat);
        }
    }
    Ok(())
}

/// The processes below `ancestor`, not itself, with what is known of each; also those that are over.
pub(crate) fn descendants(ancestor: i32) -> io::Result<Vec<(i32, Stat)>> {
    let mut children: BTreeMap<i32, Vec<(i32, Stat)>> = BTreeMap::new();
    each(|number, stat| children.entry(stat.parent).or_default().push((number, *stat)))?;
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut todo = vec![ancestor];
    while let Some(next) = todo.pop() {
        for (number, stat) in children.remove(&next).unwrap_or_default() {
            if seen.insert(number) {
                found.push((number, stat));
                todo.push(number);
            }
        }
    }
    Ok(found)
}

/// The kernel's id of the boot.
pub(crate) fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "12 (a) b) S 1 12 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group), ('S', 1, 12));
        assert_eq!((stat.session, stat.started), (7, 4242));
    }

    #[test]
    fn children_of_children_are_descendants() {
        let mut child = Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn().unwrap();
        let own = std::process::id() as i32;
        let below = loop {
            let all = descendants(own).unwrap();
            let below: Vec<i32> = all
                .iter()
                .filter(|(_, stat)| stat.parent == child.id() as i32)
                .map(|(number, _)| *number)
                .collect();
            assert!(all.iter().any(|(number, _)| *number == child.id() as i32));
            if !below.is_empty() {
                break below;
            }
        };
        assert_eq!(descendants(child.id() as i32).unwrap().len(), 1);
        for number in below {
            let number = rustix::process::Pid::from_raw(number).unwrap();
            rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }
}
