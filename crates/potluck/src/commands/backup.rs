//! `potluck backup` and `potluck restore`: a server's state in one file.

use std::path::{Path, PathBuf};

use potluck_server::{BackupError, ServerError};

use crate::arguments::Global;
use crate::exit::{Exit, Failure, chain};
use crate::output::{Output, bytes, count, stamp};
use crate::settings;

/// Writes all that a server needs into one file, while it runs
///
/// Run it on the server's host, with the server's --data. The file holds the key of the fleet's CA:
/// whoever has it controls the fleet, so only its owner may read it, and nothing sends it over the
/// network. An older backup of that name is replaced once the new one is whole.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck backup /srv/backup/potluck.tar                       state in /var/lib/potluck/server
  potluck backup potluck.tar --data ./server && age -r KEY potluck.tar > potluck.tar.age"
)]
pub(crate) struct BackupArgs {
    /// Where to write it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Makes a server's data directory from a backup
///
/// The directory must be empty or not exist. Nodes go on with the restored server, if it is reached
/// at one of the old addresses; what happened after the backup was made is lost: releases have to
/// be published again, and nodes that joined since have to join again.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck restore /srv/backup/potluck.tar                      into /var/lib/potluck/server
  potluck restore potluck.tar --data ./server && potluck server --data ./server"
)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn backup(args: &BackupArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let data = data(global)?;
    let copied = potluck_server::backup(&data, &args.file)
        .map_err(|fault| failure(&fault).while_doing(format!("backing up {}", data.display())))?;
    output.result(&copied, |_| {
        format!(
            "backed up {} into {}: {}, {}",
            data.display(),
            args.file.display(),
            count(copied.packs, "pack"),
            bytes(copied.bytes)
        )
    })?;
    if !output.json {
        output.note("It holds the keys of the fleet: keep it where nobody else can read it.");
    }
    Ok(Exit::Ok)
}

pub(crate) fn restore(args: &RestoreArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let data = data(global)?;
    let copied = potluck_server::restore(&args.file, &data)
        .map_err(|fault| failure(&fault).while_doing(format!("restoring {}", args.file.display())))?;
    output.result(&copied, |_| {
        format!(
            "restored {} as it was at {}: {}, {}",
            data.display(),
            stamp(copied.made),
            count(copied.packs, "pack"),
            bytes(copied.bytes)
        )
    })?;
    if !output.json {
        output.note(&format!("To start it: potluck server --data {}", shown(&data)));
    }
    Ok(Exit::Ok)
}

fn data(global: &Global) -> Result<PathBuf, Failure> {
    match &global.data {
        Some(data) => Ok(data.clone()),
        None => settings::default_data("server"),
    }
}

/// As a shell takes it.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c)) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn failure(error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::NoServer(_)
        | BackupError::NotEmpty(_)
        | BackupError::NoBackup { .. }
        | BackupError::Newer { .. }
        | BackupError::Data(ServerError::Newer { .. } | ServerError::Damaged { .. }) => Exit::Data,
        _ => Exit::Failure,
    };
    Failure::new(chain(error)).exit(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_as_a_shell_takes_it() {
        assert_eq!(shown(Path::new("/srv/a-b")), "/srv/a-b");
        assert_eq!(shown(Path::new("/srv/it's")), "'/srv/it'\\''s'");
    }
}
