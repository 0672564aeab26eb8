//! Commands of steps and the shims that stay with them: handing a command over, and taking up what an earlier executing process
//! had begun.
//!
//! A step that was cut off is taken up if each of its commands has ended, or still runs, in the care of a shim: the step is
//! gone through again without its guards, and each command that was begun already is not begun again, but has the end that its
//! shim saw. Otherwise the step was interrupted.

use std::collections::VecDeque;
use std::process::Command;
use std::time::{Duration, Instant};

use potluck_model::list::{Action, Step};
use potluck_model::trace::{Outcome, What};
use potluck_model::{Digest, StepId, UnixMicros};

use crate::command::{Ended, Exit};
use crate::engine::{Done, Engine, Fault, failed, not_started};
use crate::journal::JournalError;
use crate::leftover;
use crate::shim::{self, End, Order, Shim};
use crate::state::{Fact, Handed, Open};

/// Commands of a step that was cut off, in the order in which they were begun. All have ended.
pub(crate) struct Adopted {
    commands: VecDeque<Begun>,
}

struct Begun {
    handed: Handed,
    end: End,
    lines: Vec<String>,
}

impl Engine<'_> {
    /// What becomes of a step that was begun and has not ended. Returns how it ended, if that was found out.
    pub(crate) fn take_up(
        &mut self,
        list: Digest,
        open: &Open,
        same: bool,
    ) -> Result<Option<(StepId, Outcome)>, JournalError> {
        if self.is_untouched(open) && same {
            self.not_begun(list, open)?;
            return Ok(None);
        }
        let Some(commands) = self.await_begun(list, open)? else {
            self.interrupted(list, open)?;
            return Ok(None);
        };
        let setting = self.setting;
        let step = setting.list.steps.iter().find(|step| step.id == open.step);
        let (Some(step), true) = (step, same) else {
            // What its end means, the list says that is not here any more.
            self.cut_off(list, open, commands.back())?;
            return Ok(None);
        };
        let elapsed = UnixMicros::now().0.saturating_sub(open.at.0);
        let now = Instant::now();
        let start = now.checked_sub(Duration::from_micros(elapsed)).unwrap_or(now);
        let attempt = commands.back().map_or(1, |last| last.handed.attempt);
        self.adopted = Some(Adopted { commands });
        let outcome = self.tries(step, start, attempt)?;
        Ok(Some((step.id.clone(), outcome)))
    }

    /// Whether a step works by commands alone, and none was about to begin: the note of that lasts before it does.
    fn is_untouched(&self, open: &Open) -> bool {
        let step = self.setting.list.steps.iter().find(|step| step.id == open.step);
        let by_commands = step.is_some_and(|step| {
            matches!(
                step.action,
                Action::Run { .. }
                    | Action::Ansible { .. }
                    | Action::CloudInit { .. }
                    | Action::Package { .. }
                    | Action::Service { .. }
                    | Action::User { .. }
            )
        });
        by_commands && open.handed.is_empty()
    }

    /// Says that nothing of a step was begun, so that it is done now, whatever `on_interrupt` says.
    fn not_begun(&mut self, list: Digest, open: &Open) -> Result<(), JournalError> {
        if let Some(guard) = &open.process {
            // It changes nothing.
            let _ = leftover::end(guard);
        }
        let what = What::StepEnded {
            step: open.step.clone(),
            outcome: Outcome::Interrupted,
            millis: 0,
            exit: None,
            message: "the machine or the executing process died before its command began".to_owned(),
        };
        self.journal.append(Some(list), Some(what), None)
    }

    /// Waits for the end of the last command that was begun. `None`: what was begun of the step is not known to have ended.
    fn await_begun(&mut self, list: Digest, open: &Open) -> Result<Option<VecDeque<Begun>>, JournalError> {
        let mut commands = VecDeque::new();
        let last = open.handed.last().map(|handed| handed.number);
        for handed in &open.handed {
            let Some(mut shim) = Shim::find(self.setting.dir, handed.number) else {
                return Ok(None);
            };
            let noted = if Some(handed.number) == last {
                open.lines
            } else {
                u64::MAX
            };
            let mut lines = Vec::new();
            let journal = &mut self.journal;
            let end = shim.follow(&mut |at, line| {
                if lines.len() as u64 >= noted {
                    let what = What::StepOutput {
                        step: open.step.clone(),
                        line: line.clone(),
                    };
                    journal.append_at(at, Some(list), Some(what), None)?;
                }
                lines.push(line);
                Ok(())
            })?;
            match end {
                None | Some(End::Lost { .. }) => return Ok(None),
                Some(end) => commands.push_back(Begun {
                    handed: *handed,
                    end,
                    lines,
                }),
            }
        }
        Ok((!commands.is_empty()).then_some(commands))
    }

    /// Says how far a step came that another list has.
    fn cut_off(&mut self, list: Digest, open: &Open, last: Option<&Begun>) -> Result<(), JournalError> {
        let (exit, how) = match last.map(|last| &last.end) {
            Some(End::Ended {
                exit: Exit::Code(code), ..
            }) => (Some(*code), format!("exit code {code}")),
            Some(End::Ended {
                exit: Exit::Signal(signal),
                ..
            }) => (None, crate::command::signal_name(*signal)),
            Some(End::Ended {
                exit: Exit::TimedOut, ..
            }) => (None, "its time".to_owned()),
            Some(End::NotStarted { why, .. } | End::Lost { why }) => (None, why.clone()),
            None => (None, "nothing that is known".to_owned()),
        };
        let what = What::StepEnded {
            step: open.step.clone(),
            outcome: Outcome::Interrupted,
            millis: UnixMicros::now().0.saturating_sub(open.at.0) / 1_000,
            exit,
            message: format!(
                "the executing process died while it ran; its command went on and ended with {how}, and another release was \
                 assigned meanwhile"
            ),
        };
        self.journal.append(Some(list), Some(what), None)?;
        self.journal.sync()
    }

    /// Runs a command in the care of a shim, or says how it ended if an earlier executing process began it.
    pub(crate) fn in_care(
        &mut self,
        step: &Step,
        command: &Command,
        see: &mut dyn FnMut(&str),
    ) -> Result<Ended, Fault> {
        self.in_care = true;
        let program = command.get_program().to_string_lossy().into_owned();
        let key = key(command);
        if let Some(begun) = self.begun(step, key) {
            begun.lines.iter().for_each(|line| see(line));
            return ended(&program, Some(begun.end));
        }
        let setting = self.setting;
        let handed = Handed {
            number: self.journal.state().shims + 1,
            command: key,
            attempt: self.attempt,
        };
        let order = Order::new(command, self.time_left(), step.limits.as_ref(), setting.machine.systemd);
        self.journal
            .append(Some(setting.digest), None, Some(Fact::Handed(handed)))?;
        // From here on it may have begun.
        self.about_to_change()?;
        let mut shim = Shim::start(setting.dir, handed.number, &order)
            .map_err(|error| failed(format!("cannot start the process that stays with {program}: {error}")))?;
        let journal = &mut self.journal;
        let end = shim.follow(&mut |at, line| {
            see(&line);
            let what = What::StepOutput {
                step: step.id.clone(),
                line,
            };
            journal.append_at(at, Some(setting.digest), Some(what), None)
        })?;
        if end.is_none() {
            // As good as it can be: what cannot be ended now is ended when the step is taken up.
            let _ = shim::end_left(setting.dir, handed.number);
        }
        ended(&program, end)
    }

    /// The end of a command that was begun already.
    fn begun(&mut self, step: &Step, key: Digest) -> Option<Begun> {
        let commands = &mut self.adopted.as_mut()?.commands;
        // Of these kinds a try has one command, so that it is that one, whatever else changed: it must not run twice.
        let single = matches!(step.action, Action::Run { .. } | Action::Ansible { .. });
        let at = commands
            .iter()
            .position(|begun| begun.handed.command == key)
            .or_else(|| (single && !commands.is_empty()).then_some(0))?;
        commands.remove(at)
    }

    /// To be called when a try is over. What a command changed that was begun before, and whose step now finds all well, was changed
    /// by that step.
    pub(crate) fn leave_adopted(&mut self, mut done: Done) -> Done {
        let left = self.adopted.take().map(|adopted| adopted.commands).unwrap_or_default();
        if done.outcome == Outcome::Unchanged && !left.is_empty() {
            done.outcome = Outcome::Changed;
        }
        done
    }
}

/// What a command is known by: program, arguments and directory.
fn key(command: &Command) -> Digest {
    let dir = command.get_current_dir().map(std::path::Path::as_os_str);
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .chain(dir);
    let mut bytes = Vec::new();
    for word in words {
        bytes.extend_from_slice(word.as_encoded_bytes());
        bytes.push(0);
    }
    Digest::of(&bytes)
}

fn ended(program: &str, end: Option<End>) -> Result<Ended, Fault> {
    match end {
        Some(End::Ended { exit, last_line }) => Ok(Ended { exit, last_line }),
        Some(End::NotStarted { code, why }) => {
            let error = code.map_or_else(|| std::io::Error::other(why), std::io::Error::from_raw_os_error);
            Err(not_started(program, &error))
        }
        Some(End::Lost { why }) => Err(failed(format!("{program} ran, but: {why}"))),
        None => Err(failed(format!(
            "the process that stayed with {program} was killed, and how it ended is not known; what was left of it was ended"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::common::Node;
    use crate::journal::Journal;
    use crate::machine::Machine;
    use crate::process;

    /// A step that asks first, and finds that the command which it had begun has done its work meanwhile.
    #[test]
    fn what_a_command_did_that_was_begun_before_was_changed_by_its_step() {
        let node = Node::new();
        let programs = node.temp.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let systemctl = programs.join("systemctl");
        let text = "case $* in *LoadState*) echo loaded;; *ActiveState*) echo active;; *) echo no;; esac";
        fs::write(&systemctl, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let action = Action::Service {
            name: "app.service".into(),
            state: Some(potluck_model::list::ServiceState::Started),
            enabled: None,
        };
        let list = node.release(1).step("app", action).list();
        let run = || {
            let mut job = node.job(&list);
            job.machine_root = "/".into();
            let search = format!("{}:/usr/bin:/bin", programs.display()).into();
            let halted = AtomicBool::new(false);
            process::run(&node.dir(), &job, None, &halted, Machine::default(), search).unwrap();
            node.news()
        };
        fs::create_dir(node.dir()).unwrap();
        assert_eq!(run().outcome("app"), Outcome::Unchanged);
        let step: StepId = "app".parse().unwrap();
        let began = Fact::Began {
            configuration: list.configuration.clone(),
            release: 1,
            root: "/".into(),
        };
        let handed = Handed {
            number: 1,
            command: Digest::of(b"systemctl start app.service"),
            attempt: 1,
        };
        let mut journal = Journal::open(&node.dir()).unwrap();
        let lines = [
            (None, Some(began)),
            (Some(What::StepStarted { step }), None),
            (None, Some(Fact::Handed(handed))),
        ];
        for (what, fact) in lines {
            journal.append(Some(list.digest()), what, fact).unwrap();
        }
        drop(journal);
        let mut command = Command::new("/bin/true");
        command.env_clear();
        let order = Order::new(&command, Duration::from_secs(600), None, false);
        Shim::start(&node.dir(), 1, &order)
            .unwrap()
            .follow(&mut |_, _| Ok(()))
            .unwrap();
        assert_eq!(run().outcome("app"), Outcome::Changed);
        assert_eq!(run().outcome("app"), Outcome::Unchanged);
    }
}
