//! What the node does while its disk is full, and how it makes room.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use potluck_model::Digest;
use potluck_proto::{Input, TransferEnd};
use potluck_store::StoreError;
use tokio::time::Instant;

use super::{Driver, Event};
use crate::lists::{self, Loaded};
use crate::room::{Room, Shortage};
use crate::{Finished, room};

/// How long the node does not fetch after its disk failed or was found too small.
const PAUSE: Duration = Duration::from_secs(10);
/// How often the same trouble with the disk is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What is known of the disk.
#[derive(Default)]
pub(super) struct Disk {
    pause: Pause,
    /// What was told last, and when.
    told: Option<(String, Instant)>,
    /// Old contents are being removed: nothing new may be stored that this does not know of.
    cleaning: bool,
    /// Something was designated meanwhile.
    begin_after: bool,
    /// For the designated list, room was made already.
    evicted: bool,
}

/// Whether the node fetches.
#[derive(Default, PartialEq, Eq)]
enum Pause {
    #[default]
    Not,
    /// It does not, and then looks again whether there is room.
    Until(Instant),
    /// Room is being looked for or made.
    Looking,
}

impl Disk {
    pub(super) fn is_paused(&self) -> bool {
        self.pause != Pause::Not
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.pause {
            Pause::Until(at) => Some(at),
            Pause::Not | Pause::Looking => None,
        }
    }

    /// Something else is designated.
    pub(super) fn forget(&mut self) {
        (self.pause, self.told, self.evicted) = (Pause::Not, None, false);
    }

    /// Whether what is designated has to wait for old contents to be removed.
    pub(super) fn hold_back(&mut self) -> bool {
        self.begin_after = self.cleaning;
        self.cleaning
    }
}

impl Driver {
    /// Nothing could be stored.
    pub(super) fn handle_store_failed(&mut self, error: &StoreError) {
        if let StoreError::NotPrepared { content } = error {
            return self.examine(vec![*content]);
        }
        if !self.disk.is_paused() {
            let again = PAUSE.as_secs();
            self.disk_trouble(format!("nothing can be stored, trying again every {again} s: {error}"));
            self.pause();
        }
    }

    /// Stops fetching for a while.
    fn pause(&mut self) {
        self.disk.pause = Pause::Until(Instant::now() + PAUSE);
        // What was copied ahead takes room as well.
        self.staging = None;
        self.designate_to_core();
        for transfer in self.transfers.keys().copied().collect::<Vec<_>>() {
            self.end_transfer(transfer, TransferEnd::Failed("nothing can be stored".into()));
        }
    }

    /// Tells it once, and again from time to time while it lasts.
    fn disk_trouble(&mut self, message: String) {
        let now = Instant::now();
        let told = self.disk.told.as_ref();
        if told.is_some_and(|(before, at)| *before == message && now.duration_since(*at) < TELL_EVERY) {
            return;
        }
        if told.is_some_and(|(before, _)| *before == message) {
            tracing::error!("{message}");
        } else {
            self.trouble(message.clone());
        }
        self.disk.told = Some((message, now));
    }

    /// The pause is over: looks whether there is room.
    pub(super) fn look_for_room(&mut self) {
        if self.disk.wake_at().is_none_or(|at| Instant::now() < at) {
            return;
        }
        let Some(loaded) = self.loaded.clone() else {
            self.disk.pause = Pause::Not;
            return self.designate_to_core();
        };
        self.disk.pause = Pause::Looking;
        self.measure_room(loaded);
    }

    fn measure_room(&self, loaded: Arc<Loaded>) {
        let (store, events, room) = (
            self.tools.store.clone(),
            self.tools.events.clone(),
            self.tools.room.clone(),
        );
        tokio::task::spawn_blocking(move || {
            let shortage = shortage(&store, &room, &loaded);
            let list = loaded.digest;
            drop(events.blocking_send(Event::Room { list, shortage }));
        });
    }

    pub(super) fn handle_room(&mut self, list: Digest, shortage: Option<Shortage>) {
        if self.disk.pause != Pause::Looking || self.designated.as_ref().is_none_or(|of| of.list != list) {
            return;
        }
        if let Some(shortage) = shortage {
            return self.short(&shortage);
        }
        tracing::info!("there is room on the disk again: going on");
        self.disk.pause = Pause::Not;
        self.designate_to_core();
    }

    /// The designated list does not fit: makes room, or waits until somebody does.
    pub(super) fn short(&mut self, shortage: &Shortage) {
        self.pause();
        if !self.disk.evicted {
            self.disk.evicted = true;
            if self.forget_lists_but(&self.in_use()) {
                tracing::info!("{shortage}; what older releases left is removed");
                self.disk.pause = Pause::Looking;
                return;
            }
        }
        let what = self.designated.as_ref().map_or_else(String::new, |release| {
            format!("release {} of {}", release.release, release.configuration)
        });
        let again = PAUSE.as_secs();
        self.disk_trouble(format!(
            "{what} does not fit on the disk: {shortage}; looking again every {again} s"
        ));
        if self.tools.once && self.executing.is_none() {
            self.finish(Finished::Failed { recap: None });
        }
    }

    /// Lists of which nothing may be removed.
    fn in_use(&self) -> BTreeSet<Digest> {
        let designated = self.designated.as_ref().map(|release| release.list);
        designated.into_iter().chain(self.executing).collect()
    }

    /// After a release was executed: removes what neither it nor the one before it needs.
    pub(super) fn clean_up(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        let recent = self.tools.execution.recent_lists(loaded.digest);
        self.trim(&recent);
    }

    /// The store is over its cap: removes old releases, the oldest first, but nothing that is in use.
    pub(super) fn keep_to_cap(&mut self) {
        if self.tools.store_max.is_some() {
            let others = self.tools.execution.known_lists();
            self.trim(&others);
        }
    }

    /// Removes all lists but those in use, and those of `recent` (the latest first) for which there is room under the cap.
    fn trim(&mut self, recent: &[Digest]) {
        let mut keep = self.in_use();
        let bytes = |list: &Digest| self.payloads.get(list).copied().unwrap_or_default();
        let mut sum: u64 = keep.iter().map(bytes).sum();
        if let Some(max) = self.tools.store_max
            && sum > max
            && keep.len() == 1
        {
            tracing::warn!(
                "this release alone has {}, and the store is to have at most {}: it is kept all the same",
                room::mib(sum),
                room::mib(max)
            );
        }
        for list in recent {
            if keep.contains(list) {
                continue;
            }
            sum += bytes(list);
            if self.tools.store_max.is_some_and(|max| sum > max) {
                break;
            }
            keep.insert(*list);
        }
        self.forget_lists_but(&keep);
    }

    /// Forgets lists and removes what only they name; whether there is anything to remove. `Event::Cleaned` follows.
    fn forget_lists_but(&mut self, keep: &BTreeSet<Digest>) -> bool {
        let forgotten: Vec<Digest> = self
            .stored_lists
            .keys()
            .filter(|list| !keep.contains(list))
            .copied()
            .collect();
        if forgotten.is_empty() || self.disk.cleaning {
            return false;
        }
        for list in &forgotten {
            self.stored_lists.remove(list);
            self.payloads.remove(list);
            self.input(Input::Forget { list: *list });
        }
        self.save_lists();
        self.disk.cleaning = true;
        let (store, events, machine) = (
            self.tools.store.clone(),
            self.tools.events.clone(),
            self.tools.execution.machine(),
        );
        let lists: Vec<Digest> = self.stored_lists.keys().copied().collect();
        tokio::task::spawn_blocking(move || {
            match lists::contents_of(&store, &lists, machine) {
                Ok(keep) => match store.remove_all_but(&keep) {
                    Ok(removed) => tracing::info!(?removed, "removed what no kept release needs"),
                    Err(error) => tracing::warn!(%error, "cannot remove old contents"),
                },
                Err(error) => tracing::warn!(%error, "cannot tell which contents are old; nothing is removed"),
            }
            drop(events.blocking_send(Event::Cleaned));
        });
        true
    }

    pub(super) fn handle_cleaned(&mut self) {
        self.disk.cleaning = false;
        if std::mem::take(&mut self.disk.begin_after) {
            return self.begin_designated();
        }
        if self.disk.pause == Pause::Looking {
            match self.loaded.clone() {
                Some(loaded) => self.measure_room(loaded),
                None => self.disk.pause = Pause::Until(Instant::now()),
            }
        }
    }
}

/// Where what is lacking of a list does not fit. What cannot be measured counts as enough: it is noticed when it is not.
pub(super) fn shortage(store: &potluck_store::Store, room: &Room, loaded: &Loaded) -> Option<Shortage> {
    let lacking = lists::lacking(store, loaded).unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot tell what is lacking");
        0
    });
    if lacking == 0 {
        return None;
    }
    room.shortage(loaded, lacking).unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot tell how much room there is");
        None
    })
}
