//! A directory of publishers' keys. It also holds what of its fleet was believed last, so that a server that was broken into
//! cannot have anything old or foreign signed: `root.json` and `targets.json`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use potluck_trust::{KEY_FILE_BYTES_MAX, KeyFile, PublicKey, Role, SecretKey};

use super::passphrase::Passphrase;
use super::short;
use crate::exit::{Doing, Exit, Failure};

/// What names of key files end with.
const SUFFIX: &str = ".key.json";
/// The most keys of a directory.
const KEYS_MAX: usize = 64;
/// Digits of a key's id in the name of its file.
const NAME_DIGITS: usize = 16;

/// The keys in a directory.
pub(crate) struct Ring {
    dir: PathBuf,
    passphrase: Passphrase,
    keys: Vec<(PathBuf, KeyFile)>,
}

impl Ring {
    pub(super) fn open(dir: PathBuf, passphrase: Passphrase) -> Result<Self, Failure> {
        let doing = || format!("looking for publishers' keys in {}", dir.display());
        let mut paths = Vec::new();
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.doing(doing)?.path();
                    let name = path.file_name().and_then(|name| name.to_str());
                    if name.is_some_and(|name| name.ends_with(SUFFIX)) {
                        paths.push(path);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing(doing),
        }
        if paths.len() > KEYS_MAX {
            let fault = format!("{}: it has {} keys, at most {KEYS_MAX} are read", doing(), paths.len());
            return Err(Failure::new(fault).exit(Exit::Data));
        }
        paths.sort();
        let mut keys = Vec::new();
        for path in paths {
            let doing = || format!("reading the key {}", path.display());
            let mut bytes = Vec::new();
            let read = File::open(&path).and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes));
            read.doing(doing)?;
            let file = KeyFile::from_bytes(&bytes)
                .doing(doing)
                .map_err(|failure| failure.exit(Exit::Data))?;
            keys.push((path, file));
        }
        Ok(Self { dir, passphrase, keys })
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The public halves.
    pub(crate) fn public(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter().map(|(_, file)| &file.public)
    }

    /// Whether the key with this id is here.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.public().any(|key| key.id() == id)
    }

    /// The keys with these ids, as far as they are here. Asks for passphrases.
    pub(crate) fn unlock(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<SecretKey>, Failure> {
        let mut keys = Vec::new();
        for (path, file) in &self.keys {
            let id = file.public.id();
            if !wanted(&id) {
                continue;
            }
            let passphrase = if file.is_sealed() {
                Some(self.passphrase.of(&format!("key {}", short(&id)))?)
            } else {
                None
            };
            let key = file.open(passphrase.as_deref());
            keys.push(key.doing(|| format!("opening the key {}", path.display()))?);
        }
        Ok(keys)
    }

    /// Makes a key and keeps it, synced; sealed with a passphrase if wanted.
    pub(crate) fn make(&mut self, sealed: bool) -> Result<SecretKey, Failure> {
        let passphrase = if sealed { Some(self.passphrase.new_one()?) } else { None };
        let key = SecretKey::generate();
        let file = KeyFile::new(&key, passphrase.as_deref());
        let name: String = key.public().id().chars().take(NAME_DIGITS).collect();
        let path = self.dir.join(format!("{name}{SUFFIX}"));
        self.write(&path, &file.to_bytes())?;
        self.keys.push((path, file));
        Ok(key)
    }

    /// Removes a key that is of no use any more.
    pub(crate) fn forget(&mut self, id: &str) -> Result<(), Failure> {
        for (path, _) in self.keys.extract_if(.., |(_, file)| file.public.id() == id) {
            fs::remove_file(&path).doing(|| format!("removing the key {}", path.display()))?;
        }
        Ok(())
    }

    /// What was believed of a role last.
    pub(super) fn recall(&self, role: Role) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.known(role);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                let read = file.take(role.bytes_max() + 1).read_to_end(&mut bytes);
                read.doing(|| format!("reading {}", path.display()))?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing(|| format!("opening {}", path.display())),
        }
    }

    /// Keeps what is believed of a role from now on.
    pub(super) fn note(&self, role: Role, bytes: &[u8]) -> Result<(), Failure> {
        self.write(&self.known(role), bytes)
    }

    fn known(&self, role: Role) -> PathBuf {
        self.dir.join(format!("{role}.json"))
    }

    /// Old or new, never half, and only for this user.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let temporary = path.with_extension("tmp");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().doing(|| format!("writing {}", path.display()))
    }
}
