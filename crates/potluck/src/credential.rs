//! The operator's credential: where it is found.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use potluck_model::Digest;
use serde::{Deserialize, Serialize};

use crate::exit::{Doing, Exit, Failure};
use crate::settings;

/// Name of the file, in the server's data directory and in the user's configuration directory.
const FILE: &str = "operator.json";
/// Variable that names the server.
const SERVER_VARIABLE: &str = "POTLUCK_SERVER";
/// The server's data directory where nobody chose one.
const SERVER_DATA: &str = "/var/lib/potluck/server";

/// What proves to the server that an operator calls, and the server to the operator.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    /// `HOST:PORT`, tried in this order.
    pub(crate) servers: Vec<String>,
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
    /// The operator's certificate, PEM.
    pub(crate) certificate: String,
    /// Its key, PEM.
    pub(crate) key: String,
    /// Digest of the publishers' root that the join string vouched for. Absent where the server keeps the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) releases: Option<Digest>,
}

/// Where to look.
struct Places {
    data: Option<PathBuf>,
    server: Option<String>,
    user: Option<PathBuf>,
    default: Vec<PathBuf>,
}

/// Where this user's credential is.
pub(crate) fn of_user() -> Result<PathBuf, Failure> {
    settings::directory("XDG_CONFIG_HOME", ".config")
        .map(|config| config.join("potluck").join(FILE))
        .ok_or_else(|| {
            Failure::new("finding a place for the operator's credential: neither XDG_CONFIG_HOME nor HOME is set")
        })
}

impl Credential {
    /// The credential: in `data` if given; with `POTLUCK_SERVER`, in the user's configuration directory; else in the
    /// server's default data directory, and last in the user's configuration directory.
    pub(crate) fn find(data: Option<&Path>) -> Result<Self, Failure> {
        let user = of_user().ok().and_then(|file| Some(file.parent()?.to_owned()));
        let mut default = vec![PathBuf::from(SERVER_DATA)];
        default.extend(settings::default_data("server"));
        default.extend(user.clone());
        default.dedup();
        Places {
            data: data.map(Path::to_owned),
            server: std::env::var(SERVER_VARIABLE).ok().filter(|server| !server.is_empty()),
            user,
            default,
        }
        .find()
    }

    /// Writes it for this user alone: old or new, never half.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let write = || -> std::io::Result<()> {
            let directory = path.parent().unwrap_or(Path::new("."));
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
            let temporary = path.with_extension("tmp");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_data()?;
            std::fs::rename(&temporary, path)
        };
        write().doing(|| format!("writing the operator's credential {}", path.display()))
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |error: &dyn std::fmt::Display| {
            Failure::new(format!("reading the operator's credential {}: {error}", path.display()))
        };
        let text = std::fs::read(path).map_err(|error| refused(&error))?;
        let credential: Self = serde_json::from_slice(&text).map_err(|error| refused(&error).exit(Exit::Data))?;
        if credential.servers.is_empty() {
            return Err(refused(&"it names no server").exit(Exit::Data));
        }
        Ok(credential)
    }
}

impl Places {
    fn find(self) -> Result<Credential, Failure> {
        if let Some(data) = &self.data {
            return Credential::read(&data.join(FILE)).map_err(|failure| {
                failure.advice("--data must name the data directory of a server that has been started.")
            });
        }
        if let Some(server) = self.server {
            let Some(user) = self.user else {
                return Err(Failure::new(format!(
                    "{SERVER_VARIABLE} is set, and neither XDG_CONFIG_HOME nor HOME says where the credential for it is"
                )));
            };
            let path = user.join(FILE);
            let found = Credential::read(&path).map_err(|failure| {
                failure.advice(format!(
                    "{SERVER_VARIABLE} is set to {server}: copy {FILE} from that server's data directory to {}.",
                    path.display()
                ))
            })?;
            return Ok(Credential {
                servers: vec![server],
                ..found
            });
        }
        for directory in &self.default {
            let path = directory.join(FILE);
            if std::fs::File::open(&path).is_ok() {
                return Credential::read(&path);
            }
        }
        let defaults: Vec<String> = self
            .default
            .iter()
            .map(|path| path.join(FILE).display().to_string())
            .collect();
        Err(Failure::new("finding the operator's credential: there is none in any of the usual places").advice(format!(
            "Name the server's data directory with --data DIR; or set {SERVER_VARIABLE} to HOST:PORT and have the credential in \
             {}; or run this where the server keeps it in {}.",
            self.user
                .map_or_else(|| format!("~/.config/potluck/{FILE}"), |user| user.join(FILE).display().to_string()),
            defaults.join(" or ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"servers": ["10.0.0.9:7440"], "ca": "c", "certificate": "d", "key": "e"}"#;

    fn places() -> Places {
        Places {
            data: None,
            server: None,
            user: None,
            default: Vec::new(),
        }
    }

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), SAMPLE).unwrap();
        dir
    }

    #[test]
    fn the_data_directory_wins_over_all_other_places() {
        let dir = directory();
        let found = Places {
            data: Some(dir.path().to_owned()),
            server: Some("elsewhere:1".into()),
            ..places()
        };
        assert_eq!(
            found.find().unwrap_or_else(|f| panic!("{f}")).servers,
            ["10.0.0.9:7440"]
        );
    }

    #[test]
    fn the_variable_names_the_server_and_the_user_has_the_credential() {
        let dir = directory();
        let found = Places {
            server: Some("elsewhere:1".into()),
            user: Some(dir.path().to_owned()),
            default: vec!["/nowhere".into()],
            ..places()
        };
        assert_eq!(found.find().unwrap_or_else(|f| panic!("{f}")).servers, ["elsewhere:1"]);
    }

    #[test]
    fn the_default_data_directory_is_the_last_place() {
        let dir = directory();
        let found = Places {
            user: Some("/nowhere".into()),
            default: vec!["/nowhere".into(), dir.path().to_owned()],
            ..places()
        };
        assert!(found.find().is_ok());
    }

    #[test]
    fn a_missing_credential_names_all_three_places() {
        let fault = Places {
            user: Some("/home/u/.config/potluck".into()),
            default: vec!["/nowhere".into()],
            ..places()
        }
        .find()
        .err()
        .unwrap()
        .to_string();
        for place in [
            "--data",
            "POTLUCK_SERVER",
            "/home/u/.config/potluck/operator.json",
            "/nowhere/operator.json",
        ] {
            assert!(fault.contains(place), "{place} in {fault}");
        }
    }
}
