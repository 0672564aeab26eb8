//! What the journal adds up to: the last run, and what was done once and is not to be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use potluck_model::trace::{Outcome, Recap, What};
use potluck_model::{ConfigurationName, Digest, StepId, UnixMicros};
use serde::{Deserialize, Serialize};

/// How many run-once steps are remembered; the oldest is forgotten first. Ten of the largest lists.
pub(crate) const RAN_MAX: usize = 100_000;
/// How many directories that archives were unpacked to are remembered.
pub(crate) const UNPACKED_MAX: usize = 10_000;

/// How many steps that are to follow a change are remembered: those of the largest list.
pub(crate) const NOTIFIED_MAX: usize = 10_000;

/// How many commands of one step are remembered while it is done.
pub(crate) const HANDED_MAX: usize = 64;

/// One line of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) at: UnixMicros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) list: Option<Digest>,
    /// What the agent reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) what: Option<What>,
    /// What only the executing process needs to know. In one line with the event, so that both are there or neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fact: Option<Fact>,
}

/// What the executing process notes for itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fact {
    /// A run of a list begins from its first step.
    Began {
        configuration: ConfigurationName,
        release: u64,
        /// The directory under which paths of the machine are.
        root: PathBuf,
    },
    /// A process group of the step is about to be started, or was.
    Spawned(Process),
    /// A command of the step is about to be handed to a shim.
    Handed(Handed),
    /// A run step without a guard has done its work for this definition and these inputs.
    Ran(Digest),
    /// An archive was unpacked.
    Unpacked {
        /// Root and directory.
        dest: String,
        configuration: ConfigurationName,
        step: StepId,
        archive: Digest,
    },
    /// What a run step did was taken back: it has not done its work any more.
    Forgot(Digest),
    /// From here on, what the run of the list has changed is taken back.
    Undoing {
        /// How its steps had ended.
        recap: Recap,
        /// The step whose failure is the reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<StepId>,
        why: String,
    },
    /// All of it is.
    Undone {
        /// How the steps ended then.
        recap: Recap,
        /// The assignment that is not executed again.
        sequence: u64,
    },
    /// Something changed that a step of the configuration is to follow.
    Notified {
        configuration: ConfigurationName,
        step: StepId,
    },
}

/// A process group, named so that it can be told from a later one with the same number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Number of the group and of its first process; none: it is about to be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<i32>,
    /// Session that it is in.
    pub(crate) session: i32,
    /// Start of the first process in clock ticks since boot, or a time before it.
    pub(crate) started: u64,
    /// The kernel's id of the boot.
    pub(crate) boot: String,
}

/// A command in the care of a shim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Handed {
    /// Of the shim; each has its own.
    pub(crate) number: u64,
    /// What the command is known by.
    pub(crate) command: Digest,
    /// In which try of the step; the first is 1.
    pub(crate) attempt: u32,
}

/// Everything that has to be remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last run.
    pub(crate) run: Option<Run>,
    /// Run-once steps that have done their work, and when.
    pub(crate) ran: BTreeMap<Digest, UnixMicros>,
    /// What was unpacked where: directory → `configuration/step` → archive.
    pub(crate) unpacked: BTreeMap<String, BTreeMap<String, Digest>>,
    /// Steps that are to be done because of what changed, and have not been since: `configuration/step`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) notified: BTreeSet<String>,
    /// The last run that ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<Good>,
    /// A list of which what it changed is being taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undoing: Option<Undoing>,
    /// A list that was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) given_up: Option<GivenUp>,
    /// How many shims there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) shims: u64,
}

/// A release that every step and health check was content with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Good {
    pub(crate) list: Digest,
    pub(crate) configuration: ConfigurationName,
    pub(crate) root: PathBuf,
}

/// See `Fact::Undoing`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Undoing {
    pub(crate) list: Digest,
    pub(crate) recap: Recap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<StepId>,
    pub(crate) why: String,
}

/// See `Fact::Undone`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct GivenUp {
    pub(crate) list: Digest,
    pub(crate) sequence: u64,
    pub(crate) recap: Recap,
}

/// A run of a list, finished or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) list: Digest,
    pub(crate) configuration: ConfigurationName,
    pub(crate) release: u64,
    pub(crate) root: PathBuf,
    pub(crate) started: UnixMicros,
    /// Steps that ended.
    pub(crate) ended: BTreeMap<StepId, Outcome>,
    /// The step that was started and has not ended.
    pub(crate) open: Option<Open>,
    /// There once the run is over.
    pub(crate) recap: Option<Recap>,
}

/// A step that was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) step: StepId,
    pub(crate) at: UnixMicros,
    pub(crate) process: Option<Process>,
    /// Commands of its last try, `HANDED_MAX` at most; all but the last one have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) handed: Vec<Handed>,
    /// How many lines of the last one have been noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) lines: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl State {
    pub(crate) fn apply(&mut self, line: &Line) {
        if let Some(fact) = &line.fact {
            self.apply_fact(line, fact);
        }
        let Some(run) = self.run.as_mut().filter(|run| Some(run.list) == line.list) else {
            return;
        };
        match &line.what {
            Some(What::StepStarted { step }) => {
                run.open = Some(Open {
                    step: step.clone(),
                    at: line.at,
                    process: None,
                    handed: Vec::new(),
                    lines: 0,
                });
            }
            Some(What::StepOutput { step, .. }) => {
                if let Some(open) = run.open.as_mut().filter(|open| open.step == *step) {
                    open.lines += 1;
                }
            }
            Some(What::StepEnded { step, outcome, .. }) => {
                run.open = None;
                if matches!(outcome, Outcome::Changed | Outcome::Unchanged) && !self.notified.is_empty() {
                    self.notified.remove(&of_step(&run.configuration, step));
                }
                // An interrupted step is done again: it has not ended.
                if *outcome != Outcome::Interrupted {
                    run.ended.insert(step.clone(), *outcome);
                }
            }
            Some(What::Executed { recap }) => {
                run.open = None;
                run.recap = Some(*recap);
                if recap.converged() {
                    self.good = Some(Good {
                        list: run.list,
                        configuration: run.configuration.clone(),
                        root: run.root.clone(),
                    });
                }
            }
            _ => {}
        }
    }

    fn apply_fact(&mut self, line: &Line, fact: &Fact) {
        match fact {
            Fact::Began {
                configuration,
                release,
                root,
            } => {
                self.run = line.list.map(|list| Run {
                    list,
                    configuration: configuration.clone(),
                    release: *release,
                    root: root.clone(),
                    started: line.at,
                    ended: BTreeMap::new(),
                    open: None,
                    recap: None,
                });
            }
            Fact::Spawned(process) => {
                if let Some(open) = self.run.as_mut().and_then(|run| run.open.as_mut()) {
                    open.process = Some(process.clone());
                }
            }
            Fact::Handed(handed) => {
                self.shims = self.shims.max(handed.number);
                if let Some(open) = self.run.as_mut().and_then(|run| run.open.as_mut()) {
                    open.handed.retain(|earlier| earlier.attempt == handed.attempt);
                    if open.handed.len() >= HANDED_MAX {
                        open.handed.remove(0);
                    }
                    open.handed.push(*handed);
                    open.lines = 0;
                }
            }
            Fact::Ran(key) => {
                self.ran.insert(*key, line.at);
                if self.ran.len() > RAN_MAX
                    && let Some(oldest) = self.ran.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
                {
                    self.ran.remove(&oldest);
                }
            }
            Fact::Unpacked {
                dest,
                configuration,
                step,
                archive,
            } => {
                if self.unpacked.len() >= UNPACKED_MAX && !self.unpacked.contains_key(dest) {
                    self.unpacked.pop_first();
                }
                let here = self.unpacked.entry(dest.clone()).or_default();
                // Another configuration's archive may have been overwritten.
                here.retain(|by, _| {
                    by.split_once('/')
                        .is_some_and(|(name, _)| name == configuration.as_str())
                });
                here.insert(of_step(configuration, step), *archive);
            }
            Fact::Forgot(key) => {
                self.ran.remove(key);
            }
            Fact::Undoing { recap, failed, why } => {
                self.undoing = line.list.map(|list| Undoing {
                    list,
                    recap: *recap,
                    failed: failed.clone(),
                    why: why.clone(),
                });
            }
            Fact::Undone { recap, sequence } => {
                self.undoing = None;
                self.given_up = line.list.map(|list| GivenUp {
                    list,
                    sequence: *sequence,
                    recap: *recap,
                });
            }
            Fact::Notified { configuration, step } => {
                if self.notified.len() >= NOTIFIED_MAX {
                    self.notified.pop_first();
                }
                self.notified.insert(of_step(configuration, step));
            }
        }
    }
}

/// A step of a configuration: the key in `State::unpacked`, and what is in `State::notified`.
pub(crate) fn of_step(configuration: &ConfigurationName, step: &StepId) -> String {
    format!("{configuration}/{step}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: Option<What>, fact: Option<Fact>) -> Line {
        Line {
            at: UnixMicros(7),
            list: Some(Digest::of(b"list")),
            what,
            fact,
        }
    }

    fn began() -> Line {
        line(
            None,
            Some(Fact::Began {
                configuration: "web".parse().unwrap(),
                release: 3,
                root: "/".into(),
            }),
        )
    }

    fn step(name: &str) -> StepId {
        name.parse().unwrap()
    }

    fn ended(name: &str, outcome: Outcome) -> Line {
        line(
            Some(What::StepEnded {
                step: step(name),
                outcome,
                millis: 0,
                exit: None,
                message: String::new(),
            }),
            None,
        )
    }

    #[test]
    fn a_step_that_was_started_and_did_not_end_is_open() {
        let mut state = State::default();
        state.apply(&began());
        state.apply(&line(Some(What::StepStarted { step: step("a") }), None));
        assert_eq!(state.run.as_ref().unwrap().open.as_ref().unwrap().step, step("a"));
        state.apply(&ended("a", Outcome::Interrupted));
        let run = state.run.as_ref().unwrap();
        assert!(run.open.is_none() && run.ended.is_empty());
        state.apply(&ended("a", Outcome::Changed));
        assert_eq!(state.run.as_ref().unwrap().ended[&step("a")], Outcome::Changed);
    }

    #[test]
    fn another_configurations_archive_in_the_same_directory_is_forgotten() {
        let mut state = State::default();
        let unpacked = |configuration: &str, name: &str, archive: &[u8]| {
            line(
                None,
                Some(Fact::Unpacked {
                    dest: "/opt".into(),
                    configuration: configuration.parse().unwrap(),
                    step: step(name),
                    archive: Digest::of(archive),
                }),
            )
        };
        state.apply(&unpacked("web", "a", b"1"));
        state.apply(&unpacked("web", "b", b"2"));
        assert_eq!(state.unpacked["/opt"].len(), 2);
        state.apply(&unpacked("other", "a", b"3"));
        assert_eq!(
            state.unpacked["/opt"],
            BTreeMap::from([("other/a".to_owned(), Digest::of(b"3"))])
        );
    }

    #[test]
    fn lines_are_written_as_they_always_were() {
        let text = serde_json::to_string(&line(
            Some(What::StepStarted { step: step("a") }),
            Some(Fact::Ran(Digest::of(b""))),
        ))
        .unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"at":7,"list":"{}","what":{{"event":"step-started","step":"a"}},"fact":{{"ran":"{}"}}}}"#,
                Digest::of(b"list"),
                Digest::of(b"")
            )
        );
    }
}
