//! Which user the network process becomes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use potluck_model::Digest;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// The account that is used where the machine has it; dist/potluck.sysusers makes it.
const ACCOUNT: &str = "potluck";
/// Where the machine has no such account: numbers that neither people, nor systemd, nor Debian give to anybody
/// (systemd's "Users, Groups, UIDs and GIDs on systemd Systems").
const NUMBERS: std::ops::Range<u32> = 60_706..61_184;

/// A user of the network process's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnUser {
    /// For people.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

impl OwnUser {
    pub(super) fn root() -> Self {
        Self {
            name: "root".into(),
            uid: 0,
            gid: 0,
        }
    }

    /// The user for the agent with this data directory, or why there can be none.
    pub(super) fn choose(data: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it was not started as root".into());
        }
        let needed = [
            (CapabilitySet::SETUID, "CAP_SETUID"),
            (CapabilitySet::SETGID, "CAP_SETGID"),
            (CapabilitySet::CHOWN, "CAP_CHOWN"),
            (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
        ];
        let has = rustix::thread::capabilities(None).map_err(|error| error.to_string())?;
        if let Some((_, name)) = needed.iter().find(|(set, _)| !has.effective.contains(*set)) {
            return Err(format!("root has not {name} here"));
        }
        if fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny") {
            return Err("root cannot change groups in this user namespace".into());
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = account(&accounts).unwrap_or_else(|| number(&accounts, data));
        for (map, id) in [("uid_map", user.uid), ("gid_map", user.gid)] {
            let text = fs::read_to_string(Path::new("/proc/self").join(map)).unwrap_or_default();
            if !is_mapped(&text, id) {
                return Err(format!("this user namespace does not have the number {id}"));
            }
        }
        // The directory itself is about to be its.
        let closed = data.ancestors().skip(1).find(|at| {
            fs::metadata(at).map_or(true, |found| {
                let bit = if found.uid() == user.uid {
                    0o100
                } else if found.gid() == user.gid {
                    0o010
                } else {
                    0o001
                };
                found.mode() & bit == 0
            })
        });
        match closed {
            Some(at) => Err(format!(
                "only its owner may enter {}: choose another --data, or `chmod o+x` that",
                at.display()
            )),
            None => Ok(user),
        }
    }
}

fn account(accounts: &str) -> Option<OwnUser> {
    let line = accounts.lines().find(|line| line.split(':').next() == Some(ACCOUNT))?;
    let number = |at: usize| line.split(':').nth(at)?.parse().ok().filter(|number| *number != 0);
    Some(OwnUser {
        name: ACCOUNT.into(),
        uid: number(2)?,
        gid: number(3)?,
    })
}

/// A number that nobody has, the same at each start, and most probably another one for another data directory.
fn number(accounts: &str, data: &Path) -> OwnUser {
    let taken = |uid: u32| {
        let mut numbers = accounts.lines().filter_map(|line| line.split(':').nth(2));
        numbers.any(|number| number.parse() == Ok(uid))
    };
    let start = Digest::of(data.as_os_str().as_encoded_bytes());
    let start = start
        .as_bytes()
        .iter()
        .fold(0, |sum: u32, byte| sum * 256 % 65_521 + u32::from(*byte));
    let mut numbers = (0..NUMBERS.len() as u32).map(|step| NUMBERS.start + (start + step) % NUMBERS.len() as u32);
    let uid = numbers.find(|uid| !taken(*uid)).unwrap_or(NUMBERS.start);
    OwnUser {
        name: uid.to_string(),
        uid,
        gid: uid,
    }
}

/// `map` as in /proc/PID/uid_map: first number inside, first outside, how many.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => (first..first + count).contains(&u64::from(id)),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNTS: &str =
        "root:x:0:0:root:/root:/bin/sh\npotlucky:x:5:5::/:\npotluck:x:990:988::/nonexistent:/sbin/nologin\n";

    #[test]
    fn the_machines_account_is_used_unless_it_is_roots() {
        let user = account(ACCOUNTS).unwrap();
        assert_eq!((user.uid, user.gid), (990, 988));
        assert_eq!(account("potluck:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(account("root:x:0:0:root:/root:/bin/sh\n"), None);
    }

    #[test]
    fn without_an_account_the_number_is_always_the_same_and_nobodys() {
        let one = number("", Path::new("/var/lib/potluck/node"));
        assert!(NUMBERS.contains(&one.uid));
        assert_eq!(one, number("", Path::new("/var/lib/potluck/node")));
        let taken = format!("someone:x:{}:1::/:\n", one.uid);
        let other = number(&taken, Path::new("/var/lib/potluck/node"));
        assert!(NUMBERS.contains(&other.uid) && other.uid != one.uid);
    }

    #[test]
    fn a_user_namespace_with_root_alone_has_no_other_number() {
        assert!(is_mapped("         0          0 4294967295\n", 60_800));
        assert!(!is_mapped("         0       1000          1\n", 60_800));
        assert!(is_mapped("0 1000 1\n60000 100000 2000\n", 60_800));
        assert!(!is_mapped("", 0));
    }
}
