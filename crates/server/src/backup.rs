//! A backup of a server's data directory, made while the server runs, and its restoration.
//!
//! A backup is a tar archive. Format, version 1: `potluck-backup.json` (`Manifest`), `version`, `operator.json`, files of
//! `keys/`, `server.db` (one consistent state), the packs that this state names in `packs/`, and `end`, an empty file
//! that is missing from an archive that was cut. It holds the key of the fleet's CA: whoever has it controls the fleet.
//! It is made from the data directory, never over the network, and only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use potluck_model::UnixSeconds;
use serde::{Deserialize, Serialize};

use crate::ServerError;
use crate::blobs::{Blobs, BlobsError, DirectoryBlobs};
use crate::catalogue::{Catalogue, CatalogueError, SqliteCatalogue};
use crate::data::{self, RESTORING, Upkeep, check_version, private_dir, sync_dir};
use crate::signing::restored_path;

/// The version of the format, and the newest that is read.
const BACKUP_FORMAT: u32 = 1;
const MANIFEST: &str = "potluck-backup.json";
const DATABASE: &str = "server.db";
const END: &str = "end";
/// Bytes of a manifest, and of a key.
const SMALL_BYTES_MAX: u64 = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Copied {
    /// Packs of chunks.
    pub packs: u64,
    /// Bytes of the backup.
    pub bytes: u64,
    /// When the backup was made.
    pub made: UnixSeconds,
}

/// Why there is no backup, or no restored server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The directory is not that of a server.
    #[error("{} is not the data directory of a server that has been started: --data names it", .0.display())]
    NoServer(PathBuf),
    /// Something is being removed, or another backup is being made.
    #[error("another backup of {} is being made, or `potluck gc` is at work there: try again when that is done", .0.display())]
    Busy(PathBuf),
    /// There is something in the directory.
    #[error("{} is not empty: a backup is restored into an empty directory or one that does not exist", .0.display())]
    NotEmpty(PathBuf),
    /// The file is not a backup, or not a whole one.
    #[error("{} is not a whole backup of a server: {why}", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer version of Potluck made it.
    #[error(
        "the backup {} has format {format}; this version of Potluck reads up to {BACKUP_FORMAT}: update it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] ServerError),
    /// The database failed.
    #[error("the server's database: {0}")]
    Catalogue(#[from] CatalogueError),
    /// The packs failed.
    #[error("the server's stored chunks: {0}")]
    Blobs(#[from] BlobsError),
}

/// What a backup begins with.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// Version of Potluck.
    version: String,
    made: UnixSeconds,
    packs: u64,
}

fn disk<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |source| BackupError::Disk {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// A file that is removed again unless it gets another name.
struct Temporary(PathBuf);

impl Temporary {
    /// A file beside `file`, for its owner alone, empty.
    fn beside(file: &Path, suffix: &str) -> Result<(Self, File), BackupError> {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        match fs::remove_file(&path) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(disk("removing", &path)(fault)),
            _ => {}
        }
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let opened = opened.map_err(disk("creating", &path))?;
        Ok((Self(path), opened))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing by this name.
        let _ = fs::remove_file(&self.0);
    }
}

/// Copies all that a server needs into `file`, which only its owner may read. The server may run or not. An older backup
/// of that name is replaced once the new one is whole.
pub fn backup(data: &Path, file: &Path) -> Result<Copied, BackupError> {
    if !check_version(data)? {
        return Err(BackupError::NoServer(data.to_owned()));
    }
    let lock = Upkeep::begin(&data.join("upkeep.lock"))?;
    let _alone = lock.ok_or_else(|| BackupError::Busy(data.to_owned()))?;
    let (database, _) = Temporary::beside(file, ".database")?;
    let packs = SqliteCatalogue::copy(&data.join(DATABASE), &database.0)?;
    let made = UnixSeconds::now();
    let (archive, opened) = Temporary::beside(file, ".partial")?;
    let writing = || disk("writing", &archive.0);
    let mut out = tar::Builder::new(BufWriter::with_capacity(BUFFER_BYTES, opened));
    let manifest = Manifest {
        format: BACKUP_FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made,
        packs: packs.len() as u64,
    };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    append(&mut out, MANIFEST, made, manifest.len() as u64, &manifest[..]).map_err(writing())?;
    let keys = data.join("keys");
    let mut names = vec!["version".to_owned(), "operator.json".to_owned()];
    for entry in fs::read_dir(&keys).map_err(disk("listing", &keys))? {
        let name = entry.map_err(disk("listing", &keys))?.file_name();
        // A key that is being replaced has the old one beside it.
        let whole = Path::new(&name).extension() != Some("tmp".as_ref());
        if let Some(name) = name.to_str().filter(|_| whole) {
            names.push(format!("keys/{name}"));
        }
    }
    names.sort();
    for name in names {
        append_file(&mut out, &name, made, &data.join(&name), &archive.0)?;
    }
    append_file(&mut out, DATABASE, made, &database.0, &archive.0)?;
    for pack in &packs {
        let name = format!("packs/{pack}.pack");
        append_file(&mut out, &name, made, &data.join(&name), &archive.0)?;
    }
    append(&mut out, END, made, 0, io::empty()).map_err(writing())?;
    let buffered = out.into_inner().map_err(writing())?;
    let opened = buffered.into_inner().map_err(|fault| writing()(fault.into_error()))?;
    opened.sync_all().map_err(writing())?;
    let bytes = opened.metadata().map_err(writing())?.len();
    fs::rename(&archive.0, file).map_err(disk("renaming the backup to", file))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    sync_dir(parent).map_err(disk("writing", parent))?;
    Ok(Copied {
        packs: packs.len() as u64,
        bytes,
        made,
    })
}

type Archive = tar::Builder<BufWriter<File>>;

fn append_file(
    out: &mut Archive,
    name: &str,
    made: UnixSeconds,
    from: &Path,
    archive: &Path,
) -> Result<(), BackupError> {
    let mut file = File::open(from).map_err(disk("reading", from))?;
    let len = file.metadata().map_err(disk("reading", from))?.len();
    // What grows meanwhile is copied up to here; what is cut is noticed.
    let mut part = (&mut file).take(len);
    append(out, name, made, len, &mut part).map_err(disk("copying into", archive))?;
    if part.limit() > 0 {
        let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read");
        return Err(disk("reading", from)(cut));
    }
    Ok(())
}

fn append(out: &mut Archive, name: &str, made: UnixSeconds, len: u64, bytes: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(len);
    header.set_mode(0o600);
    header.set_mtime(made.0);
    out.append_data(&mut header, name, bytes)
}

/// Makes the data directory of a server from a backup. `data` is empty or does not exist. What nodes are assigned gets
/// new sequence numbers, so that those go on that have heard of later assignments than the backup knows.
pub fn restore(file: &Path, data: &Path) -> Result<Copied, BackupError> {
    let opened = File::open(file).map_err(disk("opening", file))?;
    let bytes = opened.metadata().map_err(disk("opening", file))?.len();
    private_dir(data)?;
    for entry in fs::read_dir(data).map_err(disk("listing", data))? {
        // A new file system has this in its root.
        if entry.map_err(disk("listing", data))?.file_name() != "lost+found" {
            return Err(BackupError::NotEmpty(data.to_owned()));
        }
    }
    let restoring = data.join(RESTORING);
    data::replace(&restoring, b"a restore is under way, or did not come to its end\n")?;
    let unpacked = unpack(file, BufReader::with_capacity(BUFFER_BYTES, opened), data);
    let manifest = match unpacked {
        Ok(manifest) => manifest,
        Err(fault) => {
            // What was made here is removed, so that the directory can be used for another try.
            clear(data);
            return Err(fault);
        }
    };
    fs::remove_file(&restoring).map_err(disk("removing", &restoring))?;
    sync_dir(data).map_err(disk("writing", data))?;
    Ok(Copied {
        packs: manifest.packs,
        bytes,
        made: manifest.made,
    })
}

fn clear(data: &Path) {
    for name in ["keys", "packs"] {
        let _ = fs::remove_dir_all(data.join(name));
    }
    for name in [
        "version",
        "operator.json",
        DATABASE,
        "server.db-wal",
        "server.db-shm",
        RESTORING,
    ] {
        let _ = fs::remove_file(data.join(name));
    }
}

fn unpack(file: &Path, from: impl Read, data: &Path) -> Result<Manifest, BackupError> {
    let no_backup = |why: String| BackupError::NoBackup {
        path: file.to_owned(),
        why,
    };
    let damaged = |fault: io::Error| no_backup(format!("{fault}"));
    let mut archive = tar::Archive::new(from);
    let mut entries = archive.entries().map_err(damaged)?;
    let mut manifest: Option<Manifest> = None;
    let mut ended = false;
    for entry in &mut entries {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let Some(name) = path.to_str().filter(|_| entry.header().entry_type().is_file()) else {
            return Err(no_backup(format!("it holds {}, which no backup does", path.display())));
        };
        let Some(known) = &manifest else {
            if name != MANIFEST || entry.size() > SMALL_BYTES_MAX {
                return Err(no_backup(format!("it does not begin with {MANIFEST}")));
            }
            let parsed: Manifest =
                serde_json::from_reader(&mut entry).map_err(|fault| no_backup(format!("{MANIFEST}: {fault}")))?;
            if parsed.format > BACKUP_FORMAT {
                return Err(BackupError::Newer {
                    path: file.to_owned(),
                    format: parsed.format,
                });
            }
            manifest = Some(parsed);
            for name in ["keys", "packs"] {
                private_dir(&data.join(name))?;
            }
            continue;
        };
        if ended {
            return Err(no_backup(format!("{name} stands behind its end")));
        }
        if name == END {
            ended = true;
        } else if belongs(&path) {
            let to = data.join(&path);
            let mut out = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&to)
                .map_err(disk("creating", &to))?;
            let size = entry.size();
            let copied = copy(&mut entry, &mut out, &to).map_err(|fault| match fault {
                Ok(reading) => damaged(reading),
                Err(writing) => writing,
            })?;
            if copied < size {
                return Err(no_backup(format!("{name} of {} is cut", known.version)));
            }
        } else {
            return Err(no_backup(format!("it holds {name}, which no backup does")));
        }
    }
    let manifest = manifest.ok_or_else(|| no_backup("it is empty".into()))?;
    if !ended {
        return Err(no_backup("it is cut".into()));
    }
    check(file, data, &manifest)?;
    Ok(manifest)
}

/// Copies to the end; an error of the reader comes as `Ok`, of the writer as `Err`.
fn copy(from: &mut impl Read, to: &mut File, path: &Path) -> Result<u64, Result<io::Error, BackupError>> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let read = from.read(&mut buffer).map_err(Ok)?;
        if read == 0 {
            to.sync_all().map_err(|fault| Err(disk("writing", path)(fault)))?;
            return Ok(copied);
        }
        to.write_all(&buffer[..read])
            .map_err(|fault| Err(disk("writing", path)(fault)))?;
        copied += read as u64;
    }
}

/// Whether a backup may hold this: nothing else is ever written.
fn belongs(path: &Path) -> bool {
    let parts: Option<Vec<&str>> = path
        .components()
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some(["version" | "operator.json" | DATABASE]) => true,
        Some(["keys", name]) => !name.starts_with('.'),
        Some(["packs", name]) => name
            .strip_suffix(".pack")
            .is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))),
        _ => false,
    }
}

/// Checks what was unpacked before it counts as a server's data, and makes it durable.
fn check(file: &Path, data: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let lacks = |what: &str| BackupError::NoBackup {
        path: file.to_owned(),
        why: format!("it lacks {what}"),
    };
    for name in [DATABASE, "keys/ca.pem", "keys/assignment.key", "keys/root.json"] {
        if !data.join(name).exists() {
            return Err(lacks(name));
        }
    }
    if !check_version(data)? {
        return Err(lacks("version"));
    }
    let catalogue = SqliteCatalogue::open(&data.join(DATABASE))?;
    catalogue.check()?;
    let there = DirectoryBlobs::open(&data.join("packs"))?.packs()?;
    let wanted = catalogue.packs()?;
    if let Some(pack) = wanted.iter().find(|pack| !there.contains(pack)) {
        return Err(lacks(&format!("pack {pack}")));
    }
    if there.len() as u64 != manifest.packs {
        return Err(lacks(&format!("some of its {} packs", manifest.packs)));
    }
    catalogue.renew_sequences(UnixSeconds::now())?;
    drop(catalogue);
    data::replace(
        &restored_path(&data.join("keys")),
        b"what the server signs has to be signed anew\n",
    )?;
    for directory in [data.join("keys"), data.join("packs"), data.to_owned()] {
        sync_dir(&directory).map_err(disk("writing", &directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authority::Authority;
    use crate::blobs::Intake;
    use crate::data::DataDir;
    use potluck_model::Digest;

    fn server(data: &Path) {
        let dir = DataDir::open(data).unwrap();
        Authority::open(&dir.keys(), crate::NODE_CERTIFICATE_LIFE).unwrap();
        fs::write(dir.operator(), "{}").unwrap();
        let catalogue = SqliteCatalogue::open(&dir.database()).unwrap();
        let blobs = DirectoryBlobs::open(&dir.packs()).unwrap();
        let mut intake = Intake::new(&catalogue, &blobs);
        let mut body = 3_u32.to_be_bytes().to_vec();
        body.extend_from_slice(Digest::of(b"one").as_bytes());
        body.extend_from_slice(b"one");
        intake.feed(&body).unwrap();
        intake.finish().unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_restored_is_what_was_there_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file, new) = (
            dir.path().join("server"),
            dir.path().join("b.tar"),
            dir.path().join("new"),
        );
        server(&data);
        fs::write(&file, "an older backup").unwrap();
        let copied = backup(&data, &file).unwrap();
        assert_eq!((copied.packs, mode(&file)), (1, 0o600));
        assert_eq!(fs::metadata(&file).unwrap().len(), copied.bytes);
        assert_eq!(restore(&file, &new).unwrap(), copied);
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 3, "nothing is left behind: {names:?}");
        for name in [
            "keys/ca.pem",
            "keys/assignment.key",
            "operator.json",
            "version",
            DATABASE,
        ] {
            assert_eq!(mode(&new.join(name)), 0o600, "{name}");
            if name != DATABASE {
                assert_eq!(
                    fs::read(data.join(name)).unwrap(),
                    fs::read(new.join(name)).unwrap(),
                    "{name}"
                );
            }
        }
        assert_eq!(mode(&new), 0o700);
        let catalogue = SqliteCatalogue::open(&new.join(DATABASE)).unwrap();
        let stored = catalogue.chunks(&[Digest::of(b"one")]).unwrap()[0].unwrap();
        let blobs = DirectoryBlobs::open(&new.join("packs")).unwrap();
        assert_eq!(blobs.read(stored.pack, stored.offset, 3).unwrap(), b"one");
        DataDir::open(&new).unwrap();
    }

    #[test]
    fn a_backup_that_is_cut_anywhere_is_refused_and_leaves_the_directory_empty() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file, new) = (
            dir.path().join("server"),
            dir.path().join("b.tar"),
            dir.path().join("new"),
        );
        server(&data);
        backup(&data, &file).unwrap();
        let whole = fs::read(&file).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for len in (0..used).step_by(2_999).chain([used / 512 * 512]) {
            fs::write(&file, &whole[..len]).unwrap();
            let fault = restore(&file, &new).unwrap_err();
            assert!(matches!(fault, BackupError::NoBackup { .. }), "{len}: {fault}");
            assert_eq!(fs::read_dir(&new).unwrap().count(), 0, "{len}");
        }
        fs::write(&file, &whole).unwrap();
        restore(&file, &new).unwrap();
        assert!(matches!(restore(&file, &new), Err(BackupError::NotEmpty(_))));
    }

    #[test]
    fn nothing_is_written_that_a_backup_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "../evil",
            "keys/../../evil",
            "keys/.evil",
            "packs/evil",
            "lock",
            "/etc/evil",
        ] {
            let file = dir.path().join("b.tar");
            let mut out = tar::Builder::new(BufWriter::new(File::create(&file).unwrap()));
            let manifest = br#"{"format": 1, "version": "1", "made": 1, "packs": 0}"#;
            append(&mut out, MANIFEST, UnixSeconds(1), manifest.len() as u64, &manifest[..]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            out.append(&header, io::empty()).unwrap();
            out.into_inner().unwrap().into_inner().unwrap();
            let fault = restore(&file, &dir.path().join("new")).unwrap_err();
            assert!(matches!(fault, BackupError::NoBackup { .. }), "{name}: {fault}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{name}");
        }
    }

    #[test]
    fn other_files_newer_backups_and_other_directories_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("b.tar"), dir.path().join("new"));
        fs::write(&file, vec![b'x'; 2_000]).unwrap();
        assert!(matches!(restore(&file, &new), Err(BackupError::NoBackup { .. })));
        let mut out = tar::Builder::new(BufWriter::new(File::create(&file).unwrap()));
        let manifest = br#"{"format": 2, "version": "9", "made": 1, "packs": 0}"#;
        append(&mut out, MANIFEST, UnixSeconds(1), manifest.len() as u64, &manifest[..]).unwrap();
        out.into_inner().unwrap().into_inner().unwrap();
        let fault = restore(&file, &new).unwrap_err().to_string();
        assert!(fault.contains("update it"), "{fault}");
        assert!(matches!(backup(&new, &file), Err(BackupError::NoServer(_))));
        server(&new);
        let _held = Upkeep::begin(&new.join("upkeep.lock")).unwrap();
        assert!(matches!(backup(&new, &file), Err(BackupError::Busy(_))));
    }

    #[test]
    fn a_half_restored_directory_is_no_server() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RESTORING), "").unwrap();
        let fault = DataDir::open(dir.path()).err().unwrap();
        assert!(fault.to_string().contains("potluck restore"), "{fault}");
    }
}
