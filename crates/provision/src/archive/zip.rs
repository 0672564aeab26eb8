//! zip, from a file.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use potluck_model::list::PATH_BYTES_MAX;
use zip::ZipArchive;
use zip::result::ZipError;

use super::{ArchiveError, ENTRIES_MAX, Sink, refused};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFDIR: u32 = 0o040_000;

pub(super) fn unpack(mut file: File, sink: &mut Sink<'_, '_>) -> Result<(), ArchiveError> {
    let mut archive =
        ZipArchive::new(BufReader::new(file.try_clone().map_err(|error| io(&error))?)).map_err(damaged)?;
    if archive.len() > ENTRIES_MAX {
        return Err(ArchiveError::Entries);
    }
    names_are_unique(&mut file, archive.central_directory_start(), archive.len())?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = entry.name_raw().to_vec();
        let mode = entry.unix_mode();
        if entry.is_dir() {
            sink.directory(&name, mode.unwrap_or(0o755))?;
            continue;
        }
        match mode.map_or(S_IFREG, |mode| mode & S_IFMT) {
            0 | S_IFREG => sink.file(&name, mode.unwrap_or(0o644), &mut entry)?,
            S_IFDIR => sink.directory(&name, mode.unwrap_or(0o755))?,
            S_IFLNK => {
                let mut target = Vec::new();
                entry
                    .take(PATH_BYTES_MAX as u64 + 1)
                    .read_to_end(&mut target)
                    .map_err(|error| io(&error))?;
                sink.link(&name, &target)?;
            }
            _ => return Err(refused(&name, "a device or a pipe")),
        }
    }
    Ok(())
}

/// The library keeps one of several entries of a name: which one, others may see differently. So the names are counted here.
fn names_are_unique(file: &mut File, start: u64, known: usize) -> Result<(), ArchiveError> {
    const HEADER: usize = 46;
    file.seek(SeekFrom::Start(start)).map_err(|error| io(&error))?;
    let mut reader = BufReader::new(file);
    let mut names = std::collections::BTreeSet::new();
    let mut header = [0; HEADER];
    while reader.read_exact(&mut header[..4]).is_ok() && header[..4] == *b"PK\x01\x02" {
        reader.read_exact(&mut header[4..]).map_err(|error| io(&error))?;
        let length = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let mut rest = vec![0; length(28) + length(30) + length(32)];
        reader.read_exact(&mut rest).map_err(|error| io(&error))?;
        rest.truncate(length(28));
        if names.len() > ENTRIES_MAX {
            return Err(ArchiveError::Entries);
        }
        if let Some(twice) = names.replace(rest) {
            return Err(refused(&twice, "and something else of that name"));
        }
    }
    if names.len() == known {
        Ok(())
    } else {
        Err(ArchiveError::Damaged("its directory is inconsistent".into()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn damaged(error: ZipError) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

fn io(error: &std::io::Error) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}
