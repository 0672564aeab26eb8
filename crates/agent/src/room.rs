//! Whether a release fits on this machine's disks: what it still takes at its peak, and what is free, by file system.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use potluck_model::list::{Action, Entry, List};

use crate::lists::Loaded;

/// Room that is left on the file system of the data directory: for the journal, the indexes, and reports.
const RESERVE_BYTES: u64 = 4 << 20;
/// File systems give room in blocks of so many bytes, usually.
const BLOCK_BYTES: u64 = 4_096;

/// Where a release takes room.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Of the store.
    pub(crate) store: PathBuf,
    /// Of the executing process.
    pub(crate) execute: PathBuf,
    /// What `dest` of steps is under.
    pub(crate) root: PathBuf,
}

/// A release does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shortage {
    /// Where there is too little room: a path on that file system.
    pub(crate) at: PathBuf,
    /// Bytes to be fetched.
    pub(crate) fetch: u64,
    /// Bytes that executing takes there.
    pub(crate) execute: u64,
    /// Bytes that are free there.
    pub(crate) free: u64,
}

impl Shortage {
    fn needed(&self) -> u64 {
        self.fetch + self.execute
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} are needed on the file system of {} ({} to fetch, {} to execute), and {} are free: free {} there",
            mib(self.needed()),
            self.at.display(),
            mib(self.fetch),
            mib(self.execute),
            mib(self.free),
            mib(self.needed().saturating_sub(self.free)),
        )
    }
}

#[derive(Default)]
struct Need {
    at: PathBuf,
    fetch: u64,
    execute: u64,
}

impl Room {
    /// Where a release of which `lacking` bytes are not stored does not fit, if so. Blocks.
    pub(crate) fn shortage(&self, loaded: &Loaded, lacking: u64) -> io::Result<Option<Shortage>> {
        for need in self.needs(loaded, lacking)?.into_values() {
            let free = free(&need.at)?;
            if need.fetch + need.execute > free {
                return Ok(Some(Shortage {
                    at: need.at,
                    fetch: need.fetch,
                    execute: need.execute,
                    free,
                }));
            }
        }
        Ok(None)
    }

    /// What is needed, by device.
    fn needs(&self, loaded: &Loaded, lacking: u64) -> io::Result<BTreeMap<u64, Need>> {
        let mut needs = BTreeMap::new();
        if lacking > 0 {
            need(&mut needs, &self.store)?.fetch += lacking + RESERVE_BYTES;
        }
        let list = &loaded.list;
        let mut commands = !list.settings.health.is_empty();
        let mut own_copy = 0;
        for step in &list.steps {
            commands |= step.unless.is_some();
            match &step.action {
                Action::Run { .. } | Action::Ansible { .. } | Action::CloudInit { .. } => commands = true,
                Action::File { source, dest, .. } => {
                    let dest = under(&self.root, dest);
                    let any = dest.exists();
                    let bytes: u64 = list
                        .entries_under(source)
                        .filter_map(|entry| file(entry).map(|(path, size)| (inside(source, path), size)))
                        .filter(|(inside, size)| !(any && is_there(&dest, inside, *size)))
                        .map(|(_, size)| blocks(size))
                        .sum();
                    need(&mut needs, &dest)?.execute += bytes;
                }
                Action::Archive { source, dest } => {
                    let dest = under(&self.root, dest);
                    let size = size_of(list, source);
                    // How large what is in it is, nobody knows before it is unpacked; usually not smaller than this.
                    if !dest.exists() {
                        need(&mut needs, &dest)?.execute += size;
                        own_copy = own_copy.max(size);
                    }
                }
                Action::Package { .. }
                // What these write is small.
                | Action::Template { .. }
                | Action::Directory { .. }
                | Action::Link { .. }
                | Action::Service { .. }
                | Action::User { .. } => {}
            }
        }
        let mut private = own_copy;
        if commands {
            let dir = self.execute.join("files").join(loaded.digest.to_string());
            let any = dir.exists();
            let needed = |entry: &&Entry| match entry {
                Entry::File { digest, .. } => loaded.needs(digest),
                _ => false,
            };
            private += list
                .entries
                .iter()
                .filter(needed)
                .filter_map(file)
                .filter(|(path, size)| !(any && is_there(&dir, path, *size)))
                .map(|(_, size)| blocks(size))
                .sum::<u64>();
        }
        if private > 0 {
            need(&mut needs, &self.execute)?.execute += private;
        }
        Ok(needs)
    }
}

/// What is needed on the file system of `path`, of which not all need exist yet.
fn need<'a>(needs: &'a mut BTreeMap<u64, Need>, path: &Path) -> io::Result<&'a mut Need> {
    for at in path.ancestors() {
        match std::fs::metadata(at) {
            Ok(metadata) => {
                let need = needs.entry(metadata.dev()).or_default();
                if need.at.as_os_str().is_empty() {
                    at.clone_into(&mut need.at);
                }
                return Ok(need);
            }
            // Nor need this process be permitted to look into every directory on the way.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Bytes that may still be written on the file system of `path`.
fn free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A file of this size that is there is most probably the one: if it is not, it is noticed when the disk is full.
fn is_there(dir: &Path, inside: &str, size: u64) -> bool {
    let path = if inside.is_empty() {
        dir.to_owned()
    } else {
        dir.join(inside)
    };
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

fn under(root: &Path, dest: &str) -> PathBuf {
    root.join(dest.trim_start_matches('/'))
}

/// The part of `path` below `source`.
fn inside<'a>(source: &str, path: &'a str) -> &'a str {
    path.strip_prefix(source)
        .map_or(path, |rest| rest.trim_start_matches('/'))
}

fn file(entry: &Entry) -> Option<(&str, u64)> {
    match entry {
        Entry::File { path, size, .. } => Some((path, *size)),
        _ => None,
    }
}

fn size_of(list: &List, path: &str) -> u64 {
    list.entry(path).and_then(file).map_or(0, |(_, size)| size)
}

/// For people.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn blocks(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use potluck_model::Digest;
    use potluck_provision::Machine;
    use potluck_store::Store;

    use super::*;
    use crate::lists;

    /// A list of two files to place, one of them large, and a script.
    fn loaded(store: &Store) -> Loaded {
        let file = |path: &str, size: u64| serde_json::json!({"type": "file", "path": path, "mode": 0o644, "size": size, "digest": Digest::of(path.as_bytes())});
        let step = |id: &str, action: &serde_json::Value| serde_json::json!({"id": id, "needs": [], "timeout_seconds": 60, "action": action});
        let document = serde_json::json!({
            "format": 1,
            "configuration": "web",
            "release": 1,
            "audience": "fleet",
            "entries": [
                file("run.sh", 10),
                {"type": "directory", "path": "site", "mode": 0o755},
                file("site/a", 5_000),
                file("site/b", 100),
            ],
            "steps": [
                step("site", &serde_json::json!({"type": "file", "source": "site", "dest": "/srv"})),
                step("run", &serde_json::json!({"type": "run", "source": "run.sh"})),
            ],
        });
        let list: List = serde_json::from_value(document).unwrap();
        let bytes = list.to_bytes();
        let digest = Digest::of(&bytes);
        store.put_small(&[(digest, &bytes)]).unwrap();
        lists::load(store, &digest, Machine::detect()).unwrap()
    }

    #[test]
    fn what_is_fetched_placed_and_run_takes_room_until_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room {
            store: dir.path().join("data/store"),
            execute: dir.path().join("data/execute"),
            root: dir.path().join("root"),
        };
        fs::create_dir_all(&room.root).unwrap();
        let store = Store::open(&room.store).unwrap();
        let loaded = loaded(&store);
        let needs = |lacking| {
            let needs: Vec<Need> = room.needs(&loaded, lacking).unwrap().into_values().collect();
            assert!(needs.len() <= 1, "it is one file system");
            needs.first().map_or((0, 0), |need| (need.fetch, need.execute))
        };
        let placed = 2 * BLOCK_BYTES + BLOCK_BYTES;
        let private = BLOCK_BYTES + placed;
        assert_eq!(needs(5_110), (5_110 + RESERVE_BYTES, placed + private));
        fs::create_dir_all(room.root.join("srv")).unwrap();
        fs::write(room.root.join("srv/a"), vec![0; 5_000]).unwrap();
        fs::write(room.root.join("srv/b"), vec![0; 99]).unwrap();
        assert_eq!(needs(0), (0, BLOCK_BYTES + private), "a is there, b is another");
        assert_eq!(room.shortage(&loaded, 0).unwrap(), None);
        let short = room.shortage(&loaded, 1 << 60).unwrap().unwrap();
        let text = short.to_string();
        assert!(short.fetch > 1 << 60 && text.contains("are free: free "), "{text}");
        assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    }
}
