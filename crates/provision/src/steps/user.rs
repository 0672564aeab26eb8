//! `user`: makes sure that there is a user, through `useradd` and `usermod`. One that is no longer listed stays.

use std::process::Command;

use potluck_model::list::Step;
use potluck_model::trace::Outcome;

use super::Kind;
use crate::accounts::{self, Account};
use crate::command::Exit;
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::plan::Seen;

/// Adds lines to `~/.ssh/authorized_keys`, run as the user whose they are: what the user put there instead, a link for instance,
/// leads nowhere that the user may not write anyway. `KEYS` holds the lines; exit code 3: all are there.
const KEYS_SCRIPT: &str = r#"umask 077
file=$HOME/.ssh/authorized_keys
missing=$(printf '%s\n' "$KEYS" | while IFS= read -r key; do
  grep -qxF -- "$key" "$file" 2>/dev/null || printf '%s\n' "$key"
done)
[ -n "$missing" ] || exit 3
[ -z "$ASK" ] || exit 0
mkdir -p "$HOME/.ssh" || exit 1
{
  cat "$file" 2>/dev/null
  [ -z "$(tail -c 1 "$file" 2>/dev/null)" ] || echo
  printf '%s\n' "$missing"
} > "$file.potluck" || exit 1
sync "$file.potluck" 2>/dev/null || sync
mv "$file.potluck" "$file"
"#;

pub(crate) struct User<'a> {
    pub(crate) name: &'a str,
    pub(crate) uid: Option<u32>,
    pub(crate) groups: &'a [String],
    pub(crate) home: Option<&'a str>,
    pub(crate) shell: Option<&'a str>,
    pub(crate) ssh_keys: &'a [String],
    pub(crate) system: bool,
}

impl Kind for User<'_> {
    fn concerns_machine(&self) -> Option<&'static str> {
        Some("users")
    }

    fn plan(&self, engine: &mut Engine<'_>, _: &Step) -> Result<Seen, Fault> {
        let mut said = Vec::new();
        let lacks_keys = match accounts::user(engine, self.name)? {
            None => {
                said.push("made the user".to_owned());
                !self.ssh_keys.is_empty()
            }
            Some(account) => {
                self.check_number(&account)?;
                let (_, changes) = self.change(engine, &account)?;
                if !changes.is_empty() {
                    said.push(format!("changed its {}", changes.join(", ")));
                }
                !self.ssh_keys.is_empty() && self.lacks_keys(engine, &account)?
            }
        };
        if lacks_keys {
            said.push("added ssh keys".to_owned());
        }
        Ok(Seen::of_changes(&said))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        let mut said = Vec::new();
        match accounts::user(engine, self.name)? {
            None => {
                let command = self.add(engine);
                engine.execute(step, command, true)?.ok("useradd")?;
                said.push("made the user".to_owned());
            }
            Some(account) => {
                self.check_number(&account)?;
                let (command, changes) = self.change(engine, &account)?;
                if !changes.is_empty() {
                    engine.execute(step, command, true)?.ok("usermod")?;
                    said.push(format!("changed its {}", changes.join(", ")));
                }
            }
        }
        if !self.ssh_keys.is_empty() {
            let account = accounts::existing_user(engine, self.name)?;
            if self.keys(engine, step, &account)? {
                said.push("added ssh keys".to_owned());
            }
        }
        let outcome = if said.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        };
        Ok(Done::new(outcome, said.join("; ")))
    }
}

impl User<'_> {
    fn check_number(&self, account: &Account) -> Result<(), Fault> {
        match self.uid.filter(|uid| *uid != account.uid) {
            Some(uid) => Err(failed(format!(
                "the user {} has the number {} and not {uid}: files that belong to it would be left behind; change it by hand",
                self.name, account.uid
            ))),
            None => Ok(()),
        }
    }

    fn add(&self, engine: &Engine<'_>) -> Command {
        let mut command = engine.tool("useradd");
        if self.system {
            command.arg("--system");
        } else {
            command.arg("--create-home");
        }
        if let Some(uid) = self.uid {
            command.arg("--uid").arg(uid.to_string());
        }
        if let Some(home) = self.home {
            command.args(["--home-dir", home]);
        }
        if let Some(shell) = self.shell {
            command.args(["--shell", shell]);
        }
        if !self.groups.is_empty() {
            command.arg("--groups").arg(self.groups.join(","));
        }
        command.arg("--").arg(self.name);
        command
    }

    /// What makes an existing user as it should be, and what that changes.
    fn change(&self, engine: &mut Engine<'_>, account: &Account) -> Result<(Command, Vec<&'static str>), Fault> {
        let mut command = engine.tool("usermod");
        let mut changes = Vec::new();
        if let Some(home) = self.home.filter(|home| *home != account.home) {
            command.args(["--home", home]);
            changes.push("home directory");
        }
        if let Some(shell) = self.shell.filter(|shell| *shell != account.shell) {
            command.args(["--shell", shell]);
            changes.push("shell");
        }
        if !self.groups.is_empty() {
            let mut ask = engine.tool("id");
            ask.args(["-nG", "--", self.name]);
            let ended = engine.question(ask)?;
            if ended.exit != Exit::Code(0) {
                let why = clip(&ended.last_line);
                return Err(failed(format!("cannot find out the groups of {}: {why}", self.name)));
            }
            let has: Vec<&str> = ended.last_line.split_whitespace().collect();
            let lacks: Vec<&str> = self
                .groups
                .iter()
                .map(String::as_str)
                .filter(|group| !has.contains(group))
                .collect();
            if !lacks.is_empty() {
                command.args(["--append", "--groups", &lacks.join(",")]);
                changes.push("groups");
            }
        }
        command.arg("--").arg(self.name);
        Ok((command, changes))
    }

    /// Whether keys were lacking, which are there now.
    fn keys(&self, engine: &mut Engine<'_>, step: &Step, account: &Account) -> Result<bool, Fault> {
        if !self.lacks_keys(engine, account)? {
            return Ok(false);
        }
        let add = self.keys_command(engine, account, "")?;
        let ended = engine.execute(step, add, true)?;
        ended.ok("adding ssh keys")?;
        Ok(true)
    }

    fn lacks_keys(&self, engine: &mut Engine<'_>, account: &Account) -> Result<bool, Fault> {
        let ask = self.keys_command(engine, account, "1")?;
        match engine.question(ask)?.exit {
            Exit::Code(3) => Ok(false),
            Exit::Code(0) => Ok(true),
            exit => Err(failed(format!(
                "cannot look at the ssh keys of {}: {exit:?}",
                self.name
            ))),
        }
    }

    fn keys_command(&self, engine: &Engine<'_>, account: &Account, ask: &str) -> Result<Command, Fault> {
        let mut command = engine.tool("sh");
        command
            .args(["-c", KEYS_SCRIPT])
            .env("HOME", &account.home)
            .env("KEYS", self.ssh_keys.join("\n"))
            .env("ASK", ask);
        accounts::as_user(command, account)
    }
}
