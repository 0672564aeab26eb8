//! What each kind of step does.
//!
//! To add one: a variant of `Action` in the model with its keys, a file here with its `Kind`, and a line in `of`.

use potluck_model::list::{Action, Step};

use crate::engine::{Done, Engine, Fault};
use crate::plan::Seen;

mod ansible;
pub(crate) mod archive;
mod cloud_init;
mod directory;
pub(crate) mod file;
mod link;
pub(crate) mod package;
mod placing;
mod purge;
pub(crate) mod run;
mod service;
pub(crate) mod stale;
mod template;
mod user;

/// One kind of step.
pub(crate) trait Kind {
    /// What of the machine it concerns that no other root than `/` has, such as "packages".
    fn concerns_machine(&self) -> Option<&'static str> {
        None
    }

    /// What `run` would do now, found out without changing anything. `Err`: it would fail.
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault>;

    /// Makes the machine as the step says, and says whether anything had to be changed. What is as it should be costs no sync:
    /// `Engine::about_to_change` comes before the first change, and `Engine::execute` does that by itself.
    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault>;
}

pub(crate) fn of(action: &Action) -> Box<dyn Kind + '_> {
    match action {
        Action::Run {
            source,
            args,
            env,
            exit,
            user,
            ..
        } => Box::new(run::Run {
            source,
            args,
            env,
            exit,
            user: user.as_deref(),
        }),
        Action::File {
            source,
            dest,
            mode,
            keep,
            purge,
        } => Box::new(file::Placing {
            source,
            dest,
            mode: *mode,
            keep: *keep,
            purge: *purge,
        }),
        Action::Archive { source, dest } => Box::new(archive::Unpack { source, dest }),
        Action::Package { sources } => Box::new(package::Install { sources }),
        Action::Directory {
            dest,
            mode,
            owner,
            group,
        } => Box::new(directory::Directory {
            dest,
            mode: *mode,
            owner: owner.as_deref(),
            group: group.as_deref(),
        }),
        Action::Link { dest, target } => Box::new(link::Link { dest, target }),
        Action::Template {
            source,
            dest,
            mode,
            keep,
        } => Box::new(template::Template {
            source,
            dest,
            mode: *mode,
            keep: *keep,
        }),
        Action::Service { name, state, enabled } => Box::new(service::Service {
            name,
            state: *state,
            enabled: *enabled,
        }),
        Action::User {
            name,
            uid,
            groups,
            home,
            shell,
            ssh_keys,
            system,
        } => Box::new(user::User {
            name,
            uid: *uid,
            groups,
            home: home.as_deref(),
            shell: shell.as_deref(),
            ssh_keys,
            system: *system,
        }),
        Action::Ansible { source, args, env } => Box::new(ansible::Playbook { source, args, env }),
        Action::CloudInit { source, modules } => Box::new(cloud_init::UserData { source, modules }),
    }
}

/// The places of files and links that a step sees to by itself, and that are removed when no release lists them any more.
pub(crate) fn sees_to_places(action: &Action) -> bool {
    matches!(
        action,
        Action::File { .. } | Action::Link { .. } | Action::Template { .. }
    )
}

/// Paths named in a message.
const NAMED_MAX: usize = 5;

/// What was done, and to which paths: the first of them.
fn named(what: &str, paths: &[String]) -> String {
    if paths.is_empty() {
        return what.to_owned();
    }
    let first = paths[..paths.len().min(NAMED_MAX)].join(", ");
    let more = if paths.len() > NAMED_MAX { ", …" } else { "" };
    format!("{what}: {first}{more}")
}

#[cfg(test)]
mod tests;
