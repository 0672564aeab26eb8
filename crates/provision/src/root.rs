//! The machine's root (`--root`): paths are resolved inside it, and no symbolic link leads out of it.
//!
//! Paths here are relative to the root, `/` between names, empty for the root itself. On Linux the kernel resolves them
//! (`openat2`, `RESOLVE_IN_ROOT`); where it cannot, `walk` does the same name by name.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// Symbolic links that one path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;
/// How often a path is tried again when names above it change while it is resolved.
const AGAIN_MAX: usize = 16;
/// Directories kept open at a time.
const OPEN_MAX: usize = 8;

pub(crate) struct MachineRoot {
    path: PathBuf,
    fd: OwnedFd,
}

impl MachineRoot {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, fd })
    }

    /// Absolute, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The root itself, for `…at` calls with paths in which nobody else can put a symbolic link.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether this is the machine itself and not a directory on it.
    pub(crate) fn is_machine(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The directory at `path`, symbolic links followed inside the root. For use with `…at` calls only.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::DIRECTORY)
    }

    /// Whether there is anything at `path`, symbolic links followed inside the root.
    pub(crate) fn exists(&self, path: &str) -> io::Result<bool> {
        match self.resolve(path, OFlags::empty()) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The directory at `path`, made with all that is above it where it is missing (0755); `made` gets what was made.
    pub(crate) fn make_directory(&self, path: &str, made: &mut Vec<String>) -> io::Result<OwnedFd> {
        match self.directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {}
            other => return other,
        }
        let (parent, name) = split(path);
        let parent = self.make_directory(parent, made)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => made.push(path.to_owned()),
            // A link that leads nowhere, unless somebody was faster.
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.directory(path)
    }

    fn resolve(&self, path: &str, more: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | more;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let relative = if path.is_empty() { "." } else { path };
        for _ in 0..AGAIN_MAX {
            match openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // An old kernel, or a sandbox that does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(path, more),
                other => return Ok(other?),
            }
        }
        self.walk(path, more)
    }

    fn walk(&self, path: &str, more: OFlags) -> io::Result<OwnedFd> {
        let mut above = vec![self.fd.try_clone()?];
        let mut names: Vec<Vec<u8>> = reversed(path.as_bytes());
        let mut links = 0;
        while let Some(name) = names.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    above.truncate((above.len() - 1).max(1));
                    continue;
                }
                _ => {}
            }
            let here = above.last().expect("the root stays");
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = openat(here, name.as_slice(), flags, Mode::empty())?;
            if FileType::from_raw_mode(fstat(&next)?.st_mode) != FileType::Symlink {
                above.push(next);
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = readlinkat(&next, "", Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            names.extend(reversed(&target));
        }
        let found = above.pop().expect("the root stays");
        if more.contains(OFlags::DIRECTORY) && FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(found)
    }
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

/// The directory of `path`, and the name in it.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Turns an absolute path of a list into one under the root.
pub(crate) fn under_root(absolute: &str) -> &str {
    absolute.trim_start_matches('/')
}

/// Joins two paths under the root, of which either may be empty.
pub(crate) fn join(directory: &str, rest: &str) -> String {
    match (directory, rest) {
        ("", rest) => rest.to_owned(),
        (directory, "") => directory.to_owned(),
        _ => format!("{directory}/{rest}"),
    }
}

/// Directories that were opened lately: thousands of small files lie in few of them.
pub(crate) struct Directories<'r> {
    root: &'r MachineRoot,
    open: VecDeque<(String, Rc<OwnedFd>)>,
}

impl<'r> Directories<'r> {
    pub(crate) fn new(root: &'r MachineRoot) -> Self {
        Self {
            root,
            open: VecDeque::new(),
        }
    }

    pub(crate) fn at(&mut self, path: &str) -> io::Result<Rc<OwnedFd>> {
        if let Some(index) = self.open.iter().position(|(open, _)| open == path) {
            let found = self.open.remove(index).expect("it was found there");
            let fd = Rc::clone(&found.1);
            self.open.push_front(found);
            return Ok(fd);
        }
        let fd = self.root.directory(path)?;
        Ok(self.keep(path, fd))
    }

    pub(crate) fn make(&mut self, path: &str, made: &mut Vec<String>) -> io::Result<Rc<OwnedFd>> {
        match self.at(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fd = self.root.make_directory(path, made)?;
                Ok(self.keep(path, fd))
            }
            other => other,
        }
    }

    fn keep(&mut self, path: &str, fd: OwnedFd) -> Rc<OwnedFd> {
        let fd = Rc::new(fd);
        self.open.push_front((path.to_owned(), Rc::clone(&fd)));
        self.open.truncate(OPEN_MAX);
        fd
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Both ways of resolving, which must agree.
    fn find(root: &MachineRoot, path: &str) -> Option<(u64, u64)> {
        let name = |found: io::Result<OwnedFd>| {
            found.ok().map(|fd| {
                let stat = fstat(&fd).unwrap();
                (stat.st_dev, stat.st_ino)
            })
        };
        let kernel = name(root.resolve(path, OFlags::empty()));
        assert_eq!(kernel, name(root.walk(path, OFlags::empty())), "{path}");
        kernel
    }

    fn inode(path: &Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).ok().map(|data| (data.dev(), data.ino()))
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        let inside = temp.path().join("root");
        fs::create_dir_all(outside.join("secret")).unwrap();
        fs::create_dir_all(inside.join("etc/real")).unwrap();
        symlink("/etc/real", inside.join("absolute")).unwrap();
        symlink("../../../../etc", inside.join("etc/up")).unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        symlink("nowhere", inside.join("dangling")).unwrap();
        let root = MachineRoot::open(&inside).unwrap();
        assert_eq!(find(&root, "absolute"), inode(&inside.join("etc/real")));
        assert_eq!(find(&root, "etc/up/real"), inode(&inside.join("etc/real")));
        assert_eq!(find(&root, "etc/../../.."), inode(&inside));
        assert_eq!(find(&root, "out"), None);
        assert_eq!(find(&root, "out/secret"), None);
        assert_eq!(find(&root, "loop"), None);
        assert_eq!(find(&root, "dangling"), None);
        assert!(!root.exists("out/secret").unwrap());
        assert!(root.exists("absolute").unwrap());
    }

    #[test]
    fn directories_are_made_inside_the_root_through_links() {
        let temp = tempfile::tempdir().unwrap();
        let inside = temp.path().join("root");
        fs::create_dir_all(inside.join("usr/lib")).unwrap();
        symlink("/usr/lib", inside.join("lib")).unwrap();
        symlink("nowhere", inside.join("dangling")).unwrap();
        let root = MachineRoot::open(&inside).unwrap();
        let mut made = Vec::new();
        root.make_directory("lib/a/b", &mut made).unwrap();
        assert_eq!(made, ["lib/a", "lib/a/b"]);
        assert!(inside.join("usr/lib/a/b").is_dir());
        assert!(root.make_directory("dangling/a", &mut made).is_err());
        fs::write(inside.join("file"), b"").unwrap();
        assert_eq!(
            root.make_directory("file/a", &mut made).unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }
}
