//! From the last chunk to the last step.

use potluck_model::Digest;
use potluck_model::trace::Recap;
use potluck_proto::Input;
use tokio::time::Instant;

use super::{Driver, LAST_REPORT};
use crate::execution;
use crate::{Finished, lists};

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
        self.tools.execution.start(execution::Order {
            store: self.tools.store.clone(),
            joined: self.tools.joined.clone(),
            assignment: head.assignment.clone(),
            halted: head.halted,
            list: release.list,
            contents: loaded.needed().collect(),
            outbox: self.tools.outbox.clone(),
            events: self.tools.events.clone(),
        });
    }

    pub(super) fn handle_executed(&mut self, list: Digest, result: &Result<Recap, String>) {
        self.last_run = Some((list, result.clone()));
        self.executing = None;
        match result {
            Ok(recap) if recap.converged() => tracing::info!("executed: {recap}"),
            Ok(recap) => tracing::warn!("executed: {recap}"),
            Err(message) => self.trouble(format!("the release cannot be executed: {message}")),
        }
        let current = self.designated.as_ref().is_some_and(|release| release.list == list);
        let halted = result.as_ref().is_ok_and(|recap| recap.halted > 0);
        if !current {
            if self.designated.is_none() && self.tools.once {
                self.finish(Finished::Unassigned);
            }
            return self.execute_if_ready();
        }
        if self.tools.once && !halted {
            self.finish(match result {
                Ok(recap) if recap.converged() => Finished::Converged {
                    changed: recap.changed > 0,
                    recap: *recap,
                },
                Ok(recap) => Finished::Failed { recap: Some(*recap) },
                Err(_) => Finished::Failed { recap: None },
            });
        }
        self.clean_up();
        if halted {
            self.resume_if_halted();
        }
    }

    /// Removes what neither this release nor the one before it needs.
    pub(super) fn clean_up(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        let keep_lists = self.tools.execution.recent_lists(loaded.digest);
        let forgotten: Vec<Digest> = self
            .stored_lists
            .keys()
            .filter(|list| !keep_lists.contains(list))
            .copied()
            .collect();
        if forgotten.is_empty() {
            return;
        }
        for list in &forgotten {
            self.stored_lists.remove(list);
            self.input(Input::Forget { list: *list });
        }
        self.save_lists();
        let (store, machine) = (self.tools.store.clone(), self.tools.execution.machine());
        let lists: Vec<Digest> = self.stored_lists.keys().copied().collect();
        tokio::task::spawn_blocking(move || match lists::contents_of(&store, &lists, machine) {
            Ok(keep) => match store.remove_all_but(&keep) {
                Ok(removed) => tracing::info!(?removed, "removed what no kept release needs"),
                Err(error) => tracing::warn!(%error, "cannot remove old contents"),
            },
            Err(error) => tracing::warn!(%error, "cannot tell which contents are old; nothing is removed"),
        });
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        self.finished = Some(finished);
        self.finish_by = Some(Instant::now() + LAST_REPORT);
    }
}
