//! Limits of an executing process that no job can move: jobs come from the process that talks to the network.

use std::io;
use std::path::{Component, Path, PathBuf};

use potluck_model::{Digest, Location};

use crate::job::Job;
use crate::trust;

/// What the one who starts the executing process says, whatever stands in its jobs.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// The directory under which paths of the machine are.
    pub root: Option<PathBuf>,
    /// Digest of the trusted root, as the operator's join string names it: the first job cannot pin another one.
    pub pin: Option<Digest>,
    /// The bytes of jobs lie in this directory, and nowhere else. Absolute, without symbolic links.
    pub store: Option<PathBuf>,
}

impl Bounds {
    /// The job, within the bounds.
    pub(crate) fn apply(&self, job: &mut Job, dir: &Path) -> io::Result<()> {
        if let Some(root) = &self.root {
            job.machine_root.clone_from(root);
        }
        if let Some(pin) = self.pin
            && !trust::is_pinned(dir)
        {
            job.root_digest = pin;
        }
        let contents = job.contents.iter().map(|(_, at)| at);
        self.check(contents.chain([&job.list]))
    }

    /// Fails if one of these is not in the store.
    pub(crate) fn check<'a>(&self, mut locations: impl Iterator<Item = &'a Location>) -> io::Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let outside = |path: &Path| {
            path.strip_prefix(store).map_or(true, |rest| {
                rest.components().any(|part| !matches!(part, Component::Normal(_)))
            })
        };
        match locations.find(|at| outside(&at.path)) {
            Some(at) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not in the store ({})", at.path.display(), store.display()),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::Node;
    use crate::content::Contents;

    #[test]
    fn a_job_can_name_neither_another_root_nor_another_trust() {
        let node = Node::new();
        let list = node.release(1).script("a", "true").list();
        let mut job = node.job(&list);
        let pin = Digest::of(b"what the join string says");
        let bounds = Bounds {
            root: Some("/elsewhere".into()),
            pin: Some(pin),
            store: None,
        };
        let asked = job.root_digest;
        bounds.apply(&mut job, &node.dir()).unwrap();
        assert_eq!(
            (job.machine_root.as_path(), job.root_digest),
            (Path::new("/elsewhere"), pin)
        );
        // Once a root is pinned, the join string has nothing to say any more.
        std::fs::create_dir(node.dir()).unwrap();
        std::fs::write(node.dir().join("trust.json"), "{}").unwrap();
        job.root_digest = asked;
        bounds.apply(&mut job, &node.dir()).unwrap();
        assert_eq!(job.root_digest, asked);
    }

    #[test]
    fn bytes_are_read_in_the_store_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::fs::write(store.join("pack"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.path(), store.join("led")).unwrap();
        let bounds = Bounds {
            store: Some(store.clone()),
            ..Bounds::default()
        };
        let at = |path: PathBuf| Location {
            path,
            offset: 0,
            len: 6,
        };
        bounds.check([&at(store.join("pack"))].into_iter()).unwrap();
        for outside in [dir.path().join("secret"), store.join("../secret"), "store/pack".into()] {
            assert!(bounds.check([&at(outside.clone())].into_iter()).is_err(), "{outside:?}");
        }
        let digest = Digest::of(b"secret");
        let copy = |path: PathBuf| Contents::new(&[(digest, at(path))]).copy(digest, 6, &mut Vec::new());
        copy(store.join("pack")).unwrap();
        assert!(
            copy(store.join("led/secret")).is_err(),
            "no symbolic link leads out of it"
        );
    }
}
