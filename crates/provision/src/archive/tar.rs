//! tar, from a stream.

use std::io::{self, Read};

use tar::{Archive, EntryType};

use super::{ArchiveError, Limited, Sink, damage, refused};

pub(super) fn unpack(stream: impl Read, sink: &mut Sink<'_, '_>) -> Result<(), ArchiveError> {
    let limit = sink.limit;
    let failed = |error: io::Error| damage(&error, limit);
    // Headers and padding count as well: a bomb may hold nothing else.
    let mut archive = Archive::new(Limited {
        inner: stream,
        left: limit,
    });
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path_bytes().into_owned();
        let mode = entry.header().mode().map_err(failed)?;
        match entry.header().entry_type() {
            // Old archives mark a directory by its name alone.
            EntryType::Regular if name.ends_with(b"/") => sink.directory(&name, mode)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => sink.file(&name, mode, &mut entry)?,
            EntryType::Directory => sink.directory(&name, mode)?,
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                sink.link(&name, &target)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                sink.hard_link(&name, &target)?;
            }
            EntryType::XGlobalHeader => {}
            EntryType::Char | EntryType::Block => return Err(refused(&name, "a device")),
            EntryType::Fifo => return Err(refused(&name, "a pipe")),
            _ => return Err(refused(&name, "an entry of a kind that is not supported")),
        }
    }
    Ok(())
}
