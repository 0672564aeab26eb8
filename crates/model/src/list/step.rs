//! Steps: what is done on the node.

use serde::{Deserialize, Serialize};

use crate::StepId;

/// Something that is done on the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name, unique in the list.
    pub id: StepId,
    /// What it does.
    pub action: Action,
    /// Steps that must not have failed or been blocked before it starts; they stand before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<StepId>,
    /// A command; exit status 0 means that nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Vec<String>>,
    /// An absolute path under the root; if it exists, nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creates: Option<String>,
    /// A condition over the machine's facts (see `condition`); if it does not hold, nothing is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// A command that takes back what the step has changed. It may be run again after it was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Vec<String>>,
    /// Seconds after which the step's whole process group is ended.
    pub timeout_seconds: u64,
    /// How often it is tried again if it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What becomes of the run if it fails.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub on_failure: OnFailure,
    /// What becomes of it if the machine goes down while it runs.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub on_interrupt: OnInterrupt,
    /// Steps that are done only if this one or another that notifies them changed something. They stand behind all that no step
    /// notifies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<StepId>,
    /// What its commands may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

/// The most times that a step is tried again.
pub const RETRIES_MAX: u32 = 100;
/// The longest that a step waits before it is tried again, in seconds. Waiting doubles from try to try up to this.
pub const RETRY_DELAY_SECONDS_MAX: u64 = 3_600;

/// How often a step is tried again if it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries after the first, at least one, at most `RETRIES_MAX`.
    pub times: u32,
    /// Seconds before the second try; twice as long before each further one. At most `RETRY_DELAY_SECONDS_MAX`.
    pub delay_seconds: u64,
}

/// What becomes of a run when a step fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// What comes behind it is blocked.
    #[default]
    Stop,
    /// Only what needs it is blocked.
    Continue,
    /// What the release has changed is undone, the latest first; what comes behind it is blocked.
    Undo,
}

/// What becomes of a step that was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnInterrupt {
    /// It is done again when the run goes on.
    #[default]
    Again,
    /// It has failed.
    Fail,
}

/// What the commands of a step may take, each by itself where there is no systemd and all together where there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Hundredths of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Step {
    /// A step that needs nothing and has no guard.
    pub fn new(id: StepId, action: Action, timeout_seconds: u64) -> Self {
        Self {
            id,
            action,
            needs: Vec::new(),
            unless: None,
            creates: None,
            when: None,
            undo: None,
            timeout_seconds,
            retry: None,
            on_failure: OnFailure::Stop,
            on_interrupt: OnInterrupt::Again,
            notify: Vec::new(),
            limits: None,
        }
    }

    /// Whether the first format of the list could say this.
    pub(super) fn is_of_format_1(&self) -> bool {
        let action = match &self.action {
            Action::Run { user, .. } => user.is_none(),
            Action::File { purge, .. } => !purge,
            Action::Archive { .. } | Action::Package { .. } => true,
            _ => false,
        };
        action
            && self.when.is_none()
            && self.undo.is_none()
            && self.retry.is_none()
            && is_usual(&self.on_failure)
            && is_usual(&self.on_interrupt)
            && self.notify.is_empty()
            && self.limits.is_none()
    }
}

/// What a step does. Paths called `source` are those of entries; `dest` is absolute, under the root.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Runs a file of the release in a private directory that holds the release's files.
    Run {
        /// The script: executed itself if it is executable or begins with `#!`, else handed to `sh`.
        source: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Environment variables beside the standard ones, sorted by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        env: Vec<EnvVar>,
        /// What exit codes mean beside 0 = changed, sorted by code; all others mean failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exit: Vec<ExitMeaning>,
        /// Entries (a directory stands for all in it) whose change makes a step without guard run again, beside the script.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        inputs: Vec<String>,
        /// The user of the machine that it runs as; else who runs the agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    /// Places a file, or what is in a directory, at `dest`.
    File {
        /// A file, a link or a directory of the release.
        source: String,
        /// The final path; a directory's contents land in it.
        dest: String,
        /// Permission bits of every file placed; else those of the entry. At most 0o7777.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Leave the files when a later release no longer lists them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep: bool,
        /// Remove what else is in the directory `dest`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        purge: bool,
    },
    /// Unpacks a tar, tar.gz, tar.zst or zip archive into `dest`.
    Archive {
        /// The archive.
        source: String,
        /// The directory that its contents land in.
        dest: String,
    },
    /// Installs the first package that this machine's package manager takes.
    Package {
        /// Packages, .deb or .rpm, of which one is used.
        sources: Vec<String>,
    },
    /// Makes sure that there is a directory.
    Directory {
        /// The directory.
        dest: String,
        /// Permission bits, at most 0o7777; else those of one that is there stay, and a new one gets 0o755.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// The user that it belongs to; else it stays with whom it belongs to, or who runs the agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// The group, likewise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// Makes sure that there is a symbolic link.
    Link {
        /// The link.
        dest: String,
        /// What it says.
        target: String,
    },
    /// Places what a template renders to.
    Template {
        /// The template, text of at most 1 MiB.
        source: String,
        /// The final path.
        dest: String,
        /// Permission bits; else those of the template. At most 0o7777.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Leave the file when a later release no longer lists it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep: bool,
    },
    /// Sees to a unit of systemd.
    Service {
        /// The unit; without a type it is a service.
        name: String,
        /// What is to be with it now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<ServiceState>,
        /// Whether it starts with the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
    },
    /// Makes sure that there is a user.
    User {
        /// Name.
        name: String,
        /// Number; else the next that is free.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Groups that the user is to be in beside those that it is in.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<String>,
        /// Home directory, absolute; else what the machine's tools choose.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        home: Option<String>,
        /// Login shell, absolute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shell: Option<String>,
        /// Lines that are to be in `~/.ssh/authorized_keys` beside those that are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ssh_keys: Vec<String>,
        /// A user for a program and not for a person, if it is made.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        system: bool,
    },
    /// Runs a playbook on this machine.
    Ansible {
        /// The playbook.
        source: String,
        /// More arguments of `ansible-playbook`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Environment variables beside the standard ones, sorted by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        env: Vec<EnvVar>,
    },
    /// Hands user-data to the installed cloud-init, once for its bytes.
    CloudInit {
        /// The user-data, cloud-config.
        source: String,
        /// Modules of cloud-init that are run, in this order.
        modules: Vec<String>,
    },
}

/// What is to be with a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It runs.
    Started,
    /// It does not run.
    Stopped,
    /// It is restarted each time the step is done.
    Restarted,
    /// It reads its configuration again each time the step is done, or is restarted if it cannot.
    Reloaded,
}

/// An environment variable of a `run` step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// What one exit code of a `run` step means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExitMeaning {
    /// Exit code, 0 to 255.
    pub code: u8,
    /// Its meaning.
    pub means: ExitOutcome,
}

/// What an exit code says of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitOutcome {
    /// Something was changed.
    Changed,
    /// All was well already.
    Unchanged,
    /// It did not work.
    Failed,
}
