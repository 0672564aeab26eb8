//! From the last chunk to the last step.

use std::time::Duration;

use potluck_model::Digest;
use potluck_model::api::Head;
use potluck_model::trace::Recap;
use tokio::time::Instant;

use super::{Driver, LAST_REPORT};
use crate::Finished;
use crate::execution::{self, Prospect, RunFault};

/// How long the node waits before it executes a release again: from, to.
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How often it does so when the executing process died.
const DEATHS_MAX: u32 = 3;

/// Whether and when a release whose execution did not end is executed again by itself. A step that failed is not.
#[derive(Default)]
pub(super) struct Retry {
    wanted: Wanted,
    pub(super) at: Option<Instant>,
    wait: Option<Duration>,
    deaths: u32,
}

#[derive(Default)]
enum Wanted {
    #[default]
    No,
    /// The disk was full, say: as often as it takes.
    WhenItIsThere,
    /// The executing process died: some times.
    Some,
}

impl Retry {
    /// How long to wait for the next time, if there is to be one.
    fn next(&mut self) -> Option<Duration> {
        match std::mem::take(&mut self.wanted) {
            Wanted::No => return None,
            Wanted::WhenItIsThere => {}
            Wanted::Some if self.deaths >= DEATHS_MAX => return None,
            Wanted::Some => self.deaths += 1,
        }
        let wait = self.wait.map_or(AGAIN.0, |wait| (wait * 2).min(AGAIN.1));
        self.wait = Some(wait);
        Some(wait)
    }
}

impl Driver {
    pub(super) fn handle_flushed(&mut self) {
        let Some(list) = self.completing.take() else { return };
        if self.designated.as_ref().is_none_or(|release| release.list != list) {
            return;
        }
        if !self.complete {
            self.complete = true;
            let what = self.totals.complete();
            tracing::info!("everything is here and verified: {}", self.totals);
            self.record(what);
            self.keep_to_cap();
        }
        self.execute_if_ready();
    }

    pub(super) fn execute_if_ready(&mut self) {
        let (Some(release), Some(loaded), Some(head)) = (&self.designated, &self.loaded, &self.head) else {
            return;
        };
        let done = self.last_run.as_ref().is_some_and(|(list, _)| *list == release.list);
        if !self.complete || self.executing.is_some() || done {
            return;
        }
        self.executing = Some(release.list);
        let order = execution::Order {
            prospect: self.prospect(head, release.list, Vec::new()),
            halted: head.halted,
            contents: loaded.needed().collect(),
            outbox: self.tools.outbox.clone(),
            events: self.tools.events.clone(),
        };
        match self
            .staging
            .take()
            .filter(|staging| staging.list == order.prospect.list)
        {
            Some(staging) => staging.execute(order),
            None => self.tools.execution.start(order),
        }
    }

    /// Has what arrives from here on copied ahead of executing it, if anything is to come.
    pub(super) fn begin_staging(&mut self) {
        let (Some(release), Some(loaded), Some(head)) = (&self.designated, &self.loaded, &self.head) else {
            return;
        };
        let lacking = loaded.contents.iter().any(|of| of.needed && !of.held);
        if !lacking || self.complete || self.executing.is_some() || self.disk.is_paused() {
            return;
        }
        let held = loaded
            .contents
            .iter()
            .filter(|of| of.needed && of.held && of.content.chunks.is_none());
        let held = held.map(|of| of.content.digest).collect();
        let prospect = self.prospect(head, release.list, held);
        self.staging = Some(self.tools.execution.stage(prospect));
    }

    pub(super) fn prospect(&self, head: &Head, list: Digest, held: Vec<Digest>) -> Prospect {
        Prospect {
            store: self.tools.store.clone(),
            joined: self.tools.joined.clone(),
            assignment: head.assignment.clone(),
            trust: head.trust.clone(),
            list,
            held,
        }
    }

    /// A run of chunks of a content is stored.
    pub(super) fn stage(&self, content: &Digest, first: u32, count: u32) {
        if let (Some(staging), Some(loaded)) = (&self.staging, &self.loaded)
            && loaded.needs(content)
        {
            staging.arrived(*content, loaded.chunk_list_of(content), first, count);
        }
    }

    pub(super) fn handle_executed(&mut self, list: Digest, result: Result<Recap, RunFault>, failures: &[String]) {
        let passing = result.as_ref().err().is_some_and(|fault| fault.passing);
        let result = result.map_err(|fault| fault.message);
        self.executing = None;
        match &result {
            Ok(recap) if recap.converged() => tracing::info!("executed: {recap}"),
            Ok(recap) => tracing::warn!("executed: {recap}"),
            Err(message) => self.trouble(format!("the release cannot be executed: {message}")),
        }
        let bad = !result.as_ref().is_ok_and(Recap::converged);
        let messages = failures.iter().chain(result.as_ref().err());
        let damaged: Vec<Digest> = messages
            .clone()
            .filter_map(|message| potluck_provision::damaged_content(message))
            .collect();
        self.retry.wanted = if bad && messages.clone().any(|message| execution::lacked_something(message)) {
            Wanted::WhenItIsThere
        } else if passing {
            Wanted::Some
        } else {
            Wanted::No
        };
        self.last_run = Some((list, result));
        let suspicious = !damaged.is_empty() || self.last_run.as_ref().is_some_and(|(_, run)| run.is_err());
        let current = self.designated.as_ref().is_some_and(|release| release.list == list);
        if bad && suspicious && current && self.may_heal() {
            self.examine(damaged);
        } else {
            self.end_run(list);
        }
    }

    /// A run of `list` has ended, and nothing can be done about how it ended.
    pub(super) fn end_run(&mut self, list: Digest) {
        let current = self.designated.as_ref().is_some_and(|release| release.list == list);
        let ended = self.last_run.as_ref().filter(|(of, _)| *of == list);
        let Some(result) = ended.map(|(_, result)| result.clone()).filter(|_| current) else {
            if self.designated.is_none() && self.tools.once && self.executing.is_none() {
                self.finish(Finished::Unassigned);
            }
            return self.execute_if_ready();
        };
        let halted = result.as_ref().is_ok_and(|recap| recap.halted > 0);
        if self.tools.once && !halted {
            return self.finish(match result {
                Ok(recap) if recap.converged() => Finished::Converged {
                    changed: recap.changed > 0,
                    recap,
                },
                Ok(recap) => Finished::Failed { recap: Some(recap) },
                Err(_) => Finished::Failed { recap: None },
            });
        }
        if let Some(wait) = self.retry.next() {
            tracing::warn!("the release is executed again in {} s", wait.as_secs());
            self.retry.at = Some(Instant::now() + wait);
        }
        self.clean_up();
        if halted {
            self.resume_if_halted();
        }
    }

    /// It is time to execute again.
    pub(super) fn retry_run(&mut self) {
        if self.retry.at.take_if(|at| Instant::now() >= *at).is_some() {
            self.last_run = None;
            self.execute_if_ready();
        }
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        self.finished = Some(finished);
        self.finish_by = Some(Instant::now() + LAST_REPORT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacked_something_is_tried_for_ever_and_what_died_is_not() {
        let mut retry = Retry::default();
        assert_eq!(retry.next(), None);
        for _ in 0..20 {
            retry.wanted = Wanted::WhenItIsThere;
            let wait = retry.next().unwrap();
            assert!(wait >= AGAIN.0 && wait <= AGAIN.1);
        }
        assert_eq!(retry.wait, Some(AGAIN.1));
        for death in 0..DEATHS_MAX + 2 {
            retry.wanted = Wanted::Some;
            assert_eq!(retry.next().is_some(), death < DEATHS_MAX);
        }
    }
}
