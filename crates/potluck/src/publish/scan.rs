//! What is in a directory that is to be published.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use potluck_model::configuration::CONFIGURATION_FILE;
use potluck_model::list::{ENTRIES_MAX, PATH_BYTES_MAX};

/// The most bytes of `configuration.toml`.
const CONFIGURATION_BYTES_MAX: u64 = 4 << 20;
/// How many bytes of a file tell what kind it is.
pub(crate) const FIRST_BYTES: usize = 64;
/// Special bits that a release does not carry: set-user-id, set-group-id, sticky.
const SPECIAL_BITS: u32 = 0o7000;

/// A directory, as it was when it was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where it is.
    pub(crate) directory: PathBuf,
    /// Text of its `configuration.toml`, if it has one.
    pub(crate) configuration: Option<String>,
    /// What is in it, sorted by the bytes of the path.
    pub(crate) entries: Vec<Scanned>,
    /// What its owner should know, though it can be published.
    pub(crate) warnings: Vec<String>,
}

/// One entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Relative to the directory, with `/` between names.
    pub(crate) path: String,
    /// What it is.
    pub(crate) kind: Kind,
}

/// Kinds of entries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        /// Its first bytes, at most `FIRST_BYTES`.
        first: Vec<u8>,
        /// What would differ if it were changed.
        stamp: Stamp,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: String,
    },
}

/// What tells whether a file is still the one that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Everything in the directory that keeps it from being published, by name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", .0.join("\n"))]
pub(crate) struct ScanError(pub(crate) Vec<String>);

/// Looks at everything in `directory`. Symbolic links are kept as links and not followed.
pub(crate) fn scan(directory: &Path) -> Result<Scan, ScanError> {
    let whole = |message: String| ScanError(vec![message]);
    let real = fs::canonicalize(directory).map_err(|error| {
        whole(match error.kind() {
            ErrorKind::NotFound => format!(
                "there is no directory {}; name the one that holds the configuration's files",
                directory.display()
            ),
            _ => format!("{}: {error}", directory.display()),
        })
    })?;
    if !real.is_dir() {
        return Err(whole(format!("{} is not a directory", directory.display())));
    }
    let mut scanner = Scanner {
        root: &real,
        entries: Vec::new(),
        warnings: Vec::new(),
        faults: Vec::new(),
    };
    scanner.walk(&real, "");
    let Scanner {
        mut entries,
        warnings,
        mut faults,
        ..
    } = scanner;
    let configuration = match configuration(&real) {
        Ok(configuration) => configuration,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if entries.len() > ENTRIES_MAX {
        faults.push(format!(
            "more than {ENTRIES_MAX} entries, which is the most that a release may have"
        ));
    }
    if !faults.is_empty() {
        faults.sort();
        return Err(ScanError(faults));
    }
    entries.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    Ok(Scan {
        directory: real,
        configuration,
        entries,
        warnings,
    })
}

fn configuration(directory: &Path) -> Result<Option<String>, String> {
    let path = directory.join(CONFIGURATION_FILE);
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{CONFIGURATION_FILE}: {error}")),
    };
    if !metadata.is_file() || metadata.len() > CONFIGURATION_BYTES_MAX {
        return Err(format!(
            "{CONFIGURATION_FILE}: must be a regular file of at most {} MiB",
            CONFIGURATION_BYTES_MAX >> 20
        ));
    }
    fs::read_to_string(&path)
        .map(Some)
        .map_err(|error| format!("{CONFIGURATION_FILE}: {error}"))
}

struct Scanner<'a> {
    root: &'a Path,
    entries: Vec<Scanned>,
    warnings: Vec<String>,
    faults: Vec<String>,
}

impl Scanner<'_> {
    /// Adds what is in the directory at `real`, which is `path` in the release (empty: the directory itself).
    fn walk(&mut self, real: &Path, path: &str) {
        let shown = if path.is_empty() { "." } else { path };
        let entries = match fs::read_dir(real) {
            Ok(entries) => entries,
            Err(error) => return self.faults.push(format!("{shown}: {error}")),
        };
        for entry in entries {
            // One beyond the limit is enough to know.
            if self.entries.len() > ENTRIES_MAX {
                return;
            }
            match entry {
                Ok(entry) => self.entry(&entry.path(), &entry.file_name(), path),
                Err(error) => self.faults.push(format!("{shown}: {error}")),
            }
        }
    }

    fn entry(&mut self, real: &Path, name: &OsStr, parent: &str) {
        let Some(name) = name.to_str() else {
            let shown = join(parent, &name.to_string_lossy());
            return self
                .faults
                .push(format!("{shown:?}: the name is not valid UTF-8; rename it"));
        };
        let path = join(parent, name);
        if parent.is_empty() && name == CONFIGURATION_FILE {
            return;
        }
        if path.len() > PATH_BYTES_MAX {
            return self
                .faults
                .push(format!("{path}: the path has more than {PATH_BYTES_MAX} bytes"));
        }
        let metadata = match fs::symlink_metadata(real) {
            Ok(metadata) => metadata,
            Err(error) => return self.faults.push(format!("{path}: {error}")),
        };
        let kind = metadata.file_type();
        let mode = metadata.mode() & 0o777;
        if !kind.is_symlink() && metadata.mode() & SPECIAL_BITS != 0 && !kind.is_dir() {
            self.warnings.push(format!(
                "{path}: its mode is {:o}, and a release keeps only {mode:o}; set the mode in its step",
                metadata.mode() & 0o7777
            ));
        }
        if kind.is_dir() {
            self.entries.push(Scanned {
                path: path.clone(),
                kind: Kind::Directory { mode },
            });
            self.walk(real, &path);
        } else if kind.is_file() {
            self.file(real, path, mode);
        } else if kind.is_symlink() {
            self.link(real, path);
        } else {
            let what = if kind.is_socket() {
                "a socket"
            } else if kind.is_fifo() {
                "a named pipe"
            } else {
                "a device"
            };
            self.faults
                .push(format!("{path}: it is {what}, which cannot be published; remove it"));
        }
    }

    fn file(&mut self, real: &Path, path: String, mode: u32) {
        let looked = File::open(real).and_then(|mut file| {
            let mut first = Vec::new();
            Read::by_ref(&mut file)
                .take(FIRST_BYTES as u64)
                .read_to_end(&mut first)?;
            Ok((first, Stamp::of(&file.metadata()?)))
        });
        match looked {
            Ok((first, stamp)) => self.entries.push(Scanned {
                path,
                kind: Kind::File {
                    mode,
                    size: stamp.size,
                    first,
                    stamp,
                },
            }),
            Err(error) => self.faults.push(format!("{path}: {error}")),
        }
    }

    fn link(&mut self, real: &Path, path: String) {
        let target = match fs::read_link(real) {
            Ok(target) => target,
            Err(error) => return self.faults.push(format!("{path}: {error}")),
        };
        let Some(target) = target.to_str() else {
            return self
                .faults
                .push(format!("{path}: the link's target is not valid UTF-8"));
        };
        // Where it leads on this disk counts too: another link on the way may lead out.
        let leads_out = fs::canonicalize(real).is_ok_and(|end| !end.starts_with(self.root));
        if leads_out || !stays_inside(&path, target) {
            return self.faults.push(format!(
                "{path}: the link leads out of the directory, to {target:?}; replace it by what it stands for, or remove it"
            ));
        }
        self.entries.push(Scanned {
            path,
            kind: Kind::Link {
                target: target.to_owned(),
            },
        });
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

/// Whether a relative target, followed name by name from where the link is, stays in the directory.
fn stays_inside(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    if target.is_empty() || target.starts_with('/') || target.len() > PATH_BYTES_MAX {
        return false;
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn shown(scan: &Scan) -> Vec<String> {
        scan.entries
            .iter()
            .map(|entry| match &entry.kind {
                Kind::Directory { mode } => format!("{}/ {mode:o}", entry.path),
                Kind::File { mode, size, .. } => format!("{} {mode:o} {size}", entry.path),
                Kind::Link { target } => format!("{} -> {target}", entry.path),
            })
            .collect()
    }

    #[test]
    fn entries_are_sorted_by_the_bytes_of_their_path() {
        let dir = directory();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(dir.path().join("a/x"), "12345").unwrap();
        fs::write(dir.path().join("a.b"), "").unwrap();
        fs::write(dir.path().join("é"), "#!/bin/sh\n").unwrap();
        for name in ["a/x", "a.b"] {
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o640)).unwrap();
        }
        fs::set_permissions(dir.path().join("é"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join(CONFIGURATION_FILE), "name = 'x'").unwrap();
        let scan = scan(dir.path()).unwrap();
        assert_eq!(shown(&scan), ["a/ 750", "a.b 640 0", "a/x 640 5", "é 755 10"]);
        assert_eq!(scan.configuration.as_deref(), Some("name = 'x'"));
        let Kind::File { first, .. } = &scan.entries[3].kind else {
            panic!("a file")
        };
        assert_eq!(first, b"#!/bin/sh\n");
    }

    #[test]
    fn links_inside_the_directory_are_kept_as_links() {
        let dir = directory();
        fs::create_dir(dir.path().join("d")).unwrap();
        symlink("../nothing-there", dir.path().join("d/dangling")).unwrap();
        symlink("d/.", dir.path().join("here")).unwrap();
        let scan = scan(dir.path()).unwrap();
        assert_eq!(shown(&scan)[1..], ["d/dangling -> ../nothing-there", "here -> d/."]);
    }

    #[test]
    fn everything_that_cannot_be_published_is_named_at_once() {
        let dir = directory();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        symlink("/etc/passwd", at("absolute")).unwrap();
        symlink("../x", at("out")).unwrap();
        // Name by name this stays inside, on the disk it does not: `up` is `d`, whose parent's parent is outside.
        symlink("..", at("d/e/up")).unwrap();
        symlink("d/e/up/../..", at("trick")).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(b"bad\xff")), "").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let ScanError(faults) = scan(dir.path()).unwrap_err();
        let names: Vec<&str> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(names, ["\"bad\u{fffd}\"", "absolute", "out", "pipe", "socket", "trick"]);
    }

    #[test]
    fn bits_that_a_release_does_not_keep_are_warned_about() {
        let dir = directory();
        let path = dir.path().join("tool");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        let scan = scan(dir.path()).unwrap();
        assert_eq!(
            scan.warnings,
            ["tool: its mode is 4755, and a release keeps only 755; set the mode in its step"]
        );
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let dir = directory();
        fs::write(dir.path().join("f"), "").unwrap();
        assert!(scan(&dir.path().join("f")).is_err());
        assert!(scan(&dir.path().join("none")).is_err());
    }
}
