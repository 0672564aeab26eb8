//! Users and groups of the machine, as its own name service knows them.

use std::fs;
use std::process::Command;

use crate::command::Exit;
use crate::engine::{Engine, Fault, failed};
use crate::limits;

/// A user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The user of that name, or number.
pub(crate) fn user(engine: &mut Engine<'_>, name: &str) -> Result<Option<Account>, Fault> {
    let Some(line) = look_up(engine, "passwd", name)? else {
        return Ok(None);
    };
    let fields: Vec<&str> = line.split(':').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    match (number(2), number(3)) {
        (Some(uid), Some(gid)) => Ok(Some(Account {
            uid,
            gid,
            home: fields.get(5).copied().unwrap_or("/").to_owned(),
            shell: fields.get(6).copied().unwrap_or_default().to_owned(),
        })),
        _ => Err(failed(format!(
            "the machine's entry of the user {name} cannot be read: {line}"
        ))),
    }
}

/// The user of that name, who must be there.
pub(crate) fn existing_user(engine: &mut Engine<'_>, name: &str) -> Result<Account, Fault> {
    user(engine, name)?.ok_or_else(|| {
        failed(format!(
            "there is no user {name} here: a user step before this one can make it"
        ))
    })
}

/// The number of the group of that name, or number, which must be there.
pub(crate) fn existing_group(engine: &mut Engine<'_>, name: &str) -> Result<u32, Fault> {
    let line = look_up(engine, "group", name)?;
    let number = line.as_deref().and_then(|line| line.split(':').nth(2));
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| failed(format!("there is no group {name} here")))
}

/// The line of passwd(5) or group(5). Of another root, its own files count.
fn look_up(engine: &mut Engine<'_>, database: &str, name: &str) -> Result<Option<String>, Fault> {
    if !engine.setting.root.is_machine() {
        let path = engine.setting.root.path().join("etc").join(database);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let found = text.lines().find(|line| line.split(':').next() == Some(name));
        return Ok(found.map(ToOwned::to_owned));
    }
    let mut command = Command::new("getent");
    command
        .args([database, "--", name])
        .env_clear()
        .env("PATH", &engine.setting.search);
    let ended = engine.question(command)?;
    match ended.exit {
        Exit::Code(0) => Ok(Some(ended.last_line)),
        // The key is not in the database.
        Exit::Code(2) => Ok(None),
        exit => Err(failed(format!(
            "cannot look up {name} ({database}): getent ended with {exit:?}"
        ))),
    }
}

/// The command, as that user.
pub(crate) fn as_user(command: Command, account: &Account) -> Result<Command, Fault> {
    let own = rustix::process::geteuid();
    if own.as_raw() == account.uid {
        return Ok(command);
    }
    if !own.is_root() {
        return Err(failed(
            "unsupported: only root can run a step as another user, and the agent does not run as root",
        ));
    }
    let (uid, gid) = (format!("--reuid={}", account.uid), format!("--regid={}", account.gid));
    let args = [uid.as_str(), gid.as_str(), "--init-groups", "--"];
    Ok(limits::wrap("setpriv", &args, &command))
}
