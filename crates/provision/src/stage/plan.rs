//! What is worth staging.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use potluck_model::list::{Action, Entry, List};
use rustix::fs::{Mode, OFlags, fgetxattr};
use rustix::io::Errno;

use super::{Place, Stage};
use crate::look::{Found, Look};
use crate::machine::{Machine, usable};
use crate::placed::{PlacedFiles, Thing};
use crate::root::{MachineRoot, split};
use crate::steps;

/// What files get from the directory that they are made in, and not from one that they are renamed to: default access rules,
/// labels of SELinux and Smack.
const INHERITED: [&str; 3] = ["system.posix_acl_default", "security.selinux", "security.SMACK64"];

impl Stage {
    /// Files that most probably have to be placed, where a renamed file is the same as one that was made there.
    pub(super) fn plan_root(&mut self, list: &List, root: &MachineRoot, placed: &PlacedFiles) -> io::Result<()> {
        let device = rustix::fs::fstat(&self.fd)?.st_dev;
        let mut look = Look::new(root);
        let mut devices = BTreeMap::new();
        let mut number = 0;
        for step in &list.steps {
            let Action::File { source, dest, mode, .. } = &step.action else {
                continue;
            };
            for (path, entry) in steps::file::paths(list, source, dest) {
                let Entry::File {
                    mode: own,
                    size,
                    digest,
                    chunks,
                    ..
                } = entry
                else {
                    continue;
                };
                let mode = mode.unwrap_or(*own);
                let known = placed.files().get(&path);
                let remembered =
                    known.is_some_and(|known| known.thing == Thing::File(*digest) && known.before.is_none());
                let there =
                    matches!(look.at(&path), Ok(Found::File { size: s, mode: m, .. }) if s == *size && m == mode);
                // If somebody changed it meanwhile, the step finds out.
                if remembered && there {
                    continue;
                }
                let parent = split(&path).0;
                let of_parent = match devices.get(parent) {
                    Some(device) => *device,
                    None => *devices.entry(parent.to_owned()).or_insert(device_for(root, parent)?),
                };
                if of_parent != Some(device) {
                    continue;
                }
                number += 1;
                let name = number.to_string();
                self.want(*digest, *size, *chunks, Place::Root { path, name }, mode);
            }
        }
        Ok(())
    }

    /// Files that the private directory does not have. `new`: it is empty.
    pub(super) fn plan_private(&mut self, list: &List, machine: Machine, new: bool) -> io::Result<()> {
        let Some(root) = self.private.clone() else {
            return Ok(());
        };
        let usable = usable(list, &machine);
        let mut look = Look::new(&root);
        let mut wanted = Vec::new();
        for entry in &list.entries {
            match entry {
                Entry::Directory { path, mode } => {
                    if new || !look.is_directory(path)? {
                        fs::DirBuilder::new()
                            .mode(mode | 0o700)
                            .create(root.path().join(path))?;
                    }
                }
                // What is left of an earlier run is verified when it is wanted.
                Entry::File { path, digest, .. }
                    if usable.contains(digest) && (new || look.at(path)? == Found::Nothing) =>
                {
                    wanted.push(entry);
                }
                Entry::File { .. } | Entry::Link { .. } => {}
            }
        }
        for entry in wanted {
            if let Entry::File {
                path,
                mode,
                size,
                digest,
                chunks,
            } = entry
            {
                self.want(*digest, *size, *chunks, Place::Private(path.clone()), *mode);
            }
        }
        Ok(())
    }
}

/// The device that a file at `path` would be on; `None` if it would get more from its directory than that: a group, access
/// rules, a security label. It has to be made there then.
fn device_for(root: &MachineRoot, mut path: &str) -> io::Result<Option<u64>> {
    let directory = loop {
        match root.directory(path) {
            Ok(directory) => break directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => path = split(path).0,
            Err(error) => return Err(error),
        }
    };
    let stat = rustix::fs::fstat(&directory)?;
    let group = stat.st_mode & Mode::SGID.as_raw_mode() != 0 && stat.st_gid != rustix::process::getegid().as_raw();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let rules = || match rustix::fs::openat(&directory, ".", flags, Mode::empty()) {
        Ok(directory) => INHERITED.iter().any(|name| {
            !matches!(
                fgetxattr(&directory, *name, &mut [0_u8; 0]),
                Err(Errno::NODATA | Errno::OPNOTSUPP)
            )
        }),
        // Nobody knows.
        Err(_) => true,
    };
    Ok((!group && !rules()).then_some(stat.st_dev))
}
