//! Publishers' keys on this machine, and what is signed with them.

mod fleet;
mod passphrase;
mod ring;

use std::path::PathBuf;

pub(crate) use fleet::{Fleet, applied, describe, short};
pub(crate) use ring::Ring;

use crate::exit::Failure;
use crate::settings;
use passphrase::Passphrase;

/// Variable that names the directory of keys.
const KEYS_VARIABLE: &str = "POTLUCK_KEYS";

/// Where publishers' keys are, and how they are opened.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct KeyPlace {
    /// Directory of publishers' keys [default: POTLUCK_KEYS, or the user's]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// The passphrase of sealed keys [default: POTLUCK_PASSPHRASE, or ask]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyPlace {
    /// The keys there; none if there is no such directory.
    pub(crate) fn open(&self) -> Result<Ring, Failure> {
        Ring::open(self.directory()?, Passphrase::new(self.passphrase_file.clone()))
    }

    fn directory(&self) -> Result<PathBuf, Failure> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        if let Some(keys) = std::env::var_os(KEYS_VARIABLE).filter(|keys| !keys.is_empty()) {
            return Ok(PathBuf::from(keys));
        }
        settings::directory("XDG_CONFIG_HOME", ".config")
            .map(|config| config.join("potluck").join("keys"))
            .ok_or_else(|| {
                Failure::new("finding publishers' keys: neither XDG_CONFIG_HOME nor HOME is set")
                    .advice("Name their directory with --keys DIR.")
            })
    }
}
