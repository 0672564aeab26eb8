//! What the server says, and what follows from it.

use std::time::Duration;

use potluck_model::UnixSeconds;
use potluck_model::api::Head;
use potluck_model::assignment::AssignedRelease;
use potluck_model::trace::{Cause, What};
use potluck_model::units::print_duration;
use potluck_net::datagram::SealKey;
use potluck_proto::{Input, Neighbour};
use tokio::time::Instant;

use super::run::Retry;
use super::{Driver, Told};
use crate::arrived::Arrived;
use crate::totals::Totals;
use crate::{Finished, GIVE_UP};

/// A clock that is off by this much is told of: long polls and slow links explain less.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(5 * 60);

/// Whether two heads differ in nothing that has to be kept: a sync of the disk for each long poll is too much.
fn says_the_same(one: &Head, other: &Head) -> bool {
    let at_the_time = Head {
        cursor: other.cursor,
        time: other.time,
        ..one.clone()
    };
    at_the_time == *other
}

impl Driver {
    pub(super) fn handle_head(&mut self, mut head: Head, cause: Cause) {
        self.hear_of_revocations(head.revocations.take());
        self.compare_checkpoints(head.audit.take());
        let floor = self.head.as_ref().map_or(0, |head| head.assignment.signed.sequence);
        let known = self.head.as_ref().map(|head| head.assignment.signed.clone());
        let verdict = self
            .tools
            .joined
            .root
            .verify(&head.assignment, self.tools.joined.node, floor);
        let assignment = match verdict.cloned() {
            Ok(assignment) => assignment,
            Err(error) => return self.trouble(format!("the server's assignment is refused: {error}")),
        };
        let changed = known.as_ref().map(|known| &known.release) != Some(&assignment.release);
        if changed && known.is_some_and(|known| known.sequence == assignment.sequence) {
            let sequence = assignment.sequence;
            return self.trouble(format!(
                "the server made two assignments with the sequence number {sequence}: the later one is refused"
            ));
        }
        if changed && let Err(error) = assignment.adoptable(UnixSeconds::now()) {
            return self.trouble(format!("the server's assignment is not adopted: {error}"));
        }
        let saved = self.head.as_ref().is_some_and(|before| says_the_same(before, &head));
        if !saved && let Err(error) = self.tools.home.save_head(&head) {
            // Without the floor on disk an older assignment could be passed off as new after a restart.
            return self.trouble(format!("the server's assignment is not adopted: {error}"));
        }
        let signed_anew = self.head.as_ref().is_some_and(|before| before.trust != head.trust);
        self.compare_clocks(head.time);
        self.enter_network(head.site.as_deref());
        self.adopt(head);
        if cause != Cause::Notified || changed {
            let list = assignment.release.as_ref().map(|release| release.list);
            let assigned = What::Assigned {
                sequence: assignment.sequence,
                configuration: assignment.release.as_ref().map(|release| release.configuration.clone()),
                release: assignment.release.as_ref().map_or(0, |release| release.release),
            };
            // Under the list that it names, which is not the designated one yet.
            self.tools.outbox.record(list, assigned);
        }
        if changed || !self.designation_known {
            self.designation_known = true;
            self.designate(assignment.release);
        } else {
            self.consider_metadata(signed_anew);
            self.resume_if_halted();
        }
    }

    /// Tells of a clock that is off, before certificates and assignments seem to have expired.
    fn compare_clocks(&mut self, server: UnixSeconds) {
        let here = UnixSeconds::now();
        let off = here.0.abs_diff(server.0);
        if off < CLOCK_OFF_MAX.as_secs() {
            self.clock_told = false;
        } else if !std::mem::replace(&mut self.clock_told, true) {
            let direction = if here.0 > server.0 { "ahead of" } else { "behind" };
            let off = print_duration(Duration::from_secs(off));
            self.trouble(format!(
                "this machine's clock is {off} {direction} the management server's: set one of them right (NTP); \
                 certificates and assignments will seem to have expired"
            ));
        }
    }

    /// Takes over all of a head but the assignment.
    pub(super) fn adopt(&mut self, head: Head) {
        self.tools.peers.set_audiences(&head.audiences);
        let keys: Vec<SealKey> = head.fleet_keys.iter().filter_map(SealKey::parse).collect();
        self.tools.datagrams.sealer().replace(&keys);
        if let Some(key) = head
            .audiences
            .first()
            .and_then(|audience| crate::keys::parse(&audience.key))
        {
            self.input(Input::Audience { key });
        }
        // Where peers are left alone, nobody is to be asked.
        let neighbours_max = if self.tools.gate.is_open() { 64 } else { 0 };
        let neighbours = head
            .neighbours
            .iter()
            .take(neighbours_max)
            .filter(|neighbour| neighbour.node != self.tools.joined.node)
            .map(|neighbour| Neighbour {
                node: neighbour.node,
                addresses: neighbour.addresses.iter().take(16).copied().collect(),
            })
            .collect();
        let sharing = head.neighbours.iter().filter(|neighbour| neighbour.shared);
        let sharing = sharing.take(neighbours_max).map(|neighbour| neighbour.node).collect();
        self.input(Input::Sharing(sharing));
        self.input(Input::Neighbours {
            neighbours,
            population: head.population,
        });
        if head.halted && !self.head.as_ref().is_some_and(|before| before.halted) {
            tracing::info!("the fleet is halted: no step starts until it is resumed");
        }
        self.tools.execution.set_halted(head.halted);
        self.head = Some(head);
    }

    pub(super) fn resume_if_halted(&mut self) {
        let halted = self.head.as_ref().is_some_and(|head| head.halted);
        let kept = self
            .last_run
            .as_ref()
            .is_some_and(|(_, run)| run.as_ref().is_ok_and(|recap| recap.halted > 0));
        if !halted && kept {
            self.last_run = None;
            self.execute_if_ready();
        }
    }

    /// The server has not answered since the start: go on with what was known.
    pub(super) fn handle_server_unreachable(&mut self) {
        if self.head.is_some() {
            return;
        }
        let Some(head) = self.tools.home.head() else {
            self.give_up = self.tools.once.then(|| Instant::now() + GIVE_UP);
            return;
        };
        // Expiry is for adoption; this was adopted.
        let verdict = self
            .tools
            .joined
            .root
            .verify(&head.assignment, self.tools.joined.node, 0);
        match verdict.map(|assignment| assignment.release.clone()) {
            Ok(release) => {
                tracing::info!("the server cannot be reached; going on with what it said last");
                self.adopt(head);
                self.seek_voucher();
                self.designation_known = true;
                self.designate(release);
            }
            Err(error) => self.trouble(format!("the assignment in the data directory is refused: {error}")),
        }
    }

    pub(super) fn designate(&mut self, release: Option<AssignedRelease>) {
        match &release {
            Some(release) => tracing::info!(
                configuration = %release.configuration,
                release = release.release,
                "assigned; fetching what it needs"
            ),
            None => tracing::info!("nothing is assigned to this node"),
        }
        self.designated = release;
        self.loaded = None;
        self.totals = Totals::default();
        self.arrived = Arrived::default();
        self.complete = false;
        self.completing = None;
        self.staging = None;
        self.last_run = None;
        self.heals = 0;
        self.disk.forget();
        self.retry = Retry::default();
        if !self.disk.hold_back() {
            self.begin_designated();
        }
    }

    /// Goes about what is designated.
    pub(super) fn begin_designated(&mut self) {
        match self
            .designated
            .as_ref()
            .map(|release| (release.list, release.list_size))
        {
            Some((list, size)) => {
                self.shapes.one(list, size);
                if self.stored_lists.contains_key(&list) {
                    self.load_list(list);
                } else {
                    self.designate_to_core();
                }
            }
            None => {
                self.designate_to_core();
                if self.tools.once && self.executing.is_none() {
                    self.finish(Finished::Unassigned);
                }
            }
        }
    }

    pub(super) fn designate_to_core(&mut self) {
        let list = self
            .designated
            .as_ref()
            .map(|release| (release.list, release.list_size));
        let list = list.filter(|_| !self.disk.is_paused());
        if self.told != Told::List(list) {
            self.told = Told::List(list);
            self.input(Input::Designated { list });
        }
    }
}
