//! What publishers sign anew while a release is in force: refused or believed, the operator hears of it at once.

use std::time::Duration;

use potluck_model::Digest;
use tokio::time::Instant;

use super::Driver;
use crate::execution;

/// How often it is looked at without news: it may have expired.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// What the executing process said last of what publishers have signed.
pub(super) struct Metadata {
    refused: bool,
    looked: Instant,
    /// Something was signed anew since.
    anew: bool,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            refused: false,
            looked: Instant::now(),
            anew: false,
        }
    }
}

impl Metadata {
    /// It was judged again. Whether it is believed now after it was refused.
    pub(super) fn judged(&mut self, refused: bool) -> bool {
        self.looked = Instant::now();
        std::mem::replace(&mut self.refused, refused) && !refused
    }
}

impl Driver {
    /// The head has come, with something that publishers signed anew or without. What was executed stays in force.
    pub(super) fn consider_metadata(&mut self, signed_anew: bool) {
        let Some((_, run)) = &self.last_run else { return };
        if signed_anew && run.is_err() {
            // What was refused may be permitted now.
            self.last_run = None;
            self.execute_if_ready();
            return;
        }
        let (Some(release), Some(head)) = (&self.designated, &self.head) else {
            return;
        };
        self.metadata.anew |= signed_anew;
        let due = self.metadata.anew || self.metadata.looked.elapsed() >= LOOK_EVERY;
        if !due || head.trust.is_none() || self.executing.is_some() || !self.complete {
            return;
        }
        let order = execution::Order {
            prospect: self.prospect(head, release.list, Vec::new()),
            halted: head.halted,
            contents: Vec::new(),
            outbox: self.tools.outbox.clone(),
            events: self.tools.events.clone(),
        };
        self.metadata.anew = false;
        self.executing = Some(release.list);
        self.tools.execution.verify(order);
    }

    pub(super) fn handle_verified(&mut self, list: Digest, refused: Option<bool>) {
        self.executing = None;
        if refused.is_some_and(|refused| self.metadata.judged(refused)) {
            // Its good end says that the trouble is over.
            self.last_run = None;
        }
        self.end_run(list);
    }
}
