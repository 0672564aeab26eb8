//! The list of revoked nodes that this node goes by, and for how long it counts.

use std::time::Duration;

use potluck_model::assignment::{Root, Signed, TrustError};
use potluck_model::revocations::{Edition, Revocations as List};
use potluck_model::{NodeId, UnixSeconds};
use tokio::time::Instant;

/// The newest list that is known.
#[derive(Default)]
pub(crate) struct Revocations {
    list: Option<Signed<List>>,
    /// From then on it does not count any more. A node that was never given a list goes by none.
    until: Option<Instant>,
}

impl Revocations {
    /// The list that was kept, if it is believed.
    pub(crate) fn new(kept: Option<Signed<List>>, root: &Root, now: Instant, time: UnixSeconds) -> Self {
        let mut known = Self::default();
        if let Some(list) = kept
            && let Err(error) = known.take(list, root, now, time)
        {
            tracing::warn!(%error, "the list of revoked nodes in the data directory is not believed");
        }
        known
    }

    /// Which one it is.
    pub(crate) fn edition(&self) -> Edition {
        self.list.as_ref().map(|list| list.signed.edition()).unwrap_or_default()
    }

    /// As it is kept and passed on.
    pub(crate) fn signed(&self) -> Option<&Signed<List>> {
        self.list.as_ref()
    }

    /// Whether the node was revoked.
    pub(crate) fn revokes(&self, node: NodeId) -> bool {
        self.list.as_ref().is_some_and(|list| list.signed.revokes(node))
    }

    /// Takes a list over; whether it outdates the one that is known. `now` is when the time is `time`.
    pub(crate) fn take(
        &mut self,
        list: Signed<List>,
        root: &Root,
        now: Instant,
        time: UnixSeconds,
    ) -> Result<bool, TrustError> {
        let edition = root.verify_revocations(&list)?.edition();
        if self.list.is_some() && !self.edition().is_outdated_by(edition) {
            return Ok(false);
        }
        // One that seems to come from the future was signed now at the latest.
        let age = time.0.saturating_sub(list.signed.issued.0);
        let left = list.signed.grace_seconds.map(|grace| grace.saturating_sub(age));
        self.until = left.map(|left| now + Duration::from_secs(left));
        self.list = Some(list);
        Ok(true)
    }

    /// The server has just answered, and would have told of a newer list.
    pub(crate) fn confirm(&mut self, now: Instant) {
        let grace = self.list.as_ref().and_then(|list| list.signed.grace_seconds);
        self.until = grace.map(|grace| now + Duration::from_secs(grace));
    }

    /// When it stops to count.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether nobody has said for too long who was revoked.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::assignment::SigningKey;
    use potluck_model::revocations::{REISSUE_SECONDS, REVOCATIONS_FORMAT, RevocationsKind};

    use super::*;

    const TIME: UnixSeconds = UnixSeconds(1_000_000);

    fn list(number: u64, issued: u64, nodes: &[u64]) -> List {
        List {
            kind: RevocationsKind::Revocations,
            format: REVOCATIONS_FORMAT,
            number,
            issued: UnixSeconds(issued),
            grace_seconds: Some(100),
            nodes: nodes.iter().map(|node| NodeId(*node)).collect(),
        }
    }

    #[test]
    fn an_older_list_never_takes_the_place_of_a_newer_one() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let mut known = Revocations::default();
        let now = Instant::now();
        let mut take = |list| known.take(key.sign(list), &root, now, TIME).unwrap();
        assert!(take(list(7, TIME.0, &[5])));
        assert!(!take(list(6, TIME.0 + 9, &[])));
        assert!(!take(list(7, TIME.0 + 9, &[5])));
        assert!(take(list(7, TIME.0 + REISSUE_SECONDS, &[5])));
        assert!(take(list(8, TIME.0, &[5, 6])));
        assert!(known.revokes(NodeId(6)) && !known.revokes(NodeId(7)));
    }

    #[test]
    fn a_list_that_nobody_signed_changes_nothing() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let other = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let mut known = Revocations::default();
        let now = Instant::now();
        let forged = other.sign(list(9, TIME.0, &[1]));
        assert_eq!(known.take(forged.clone(), &root, now, TIME), Err(TrustError::Unsigned));
        assert_eq!(known.edition(), Edition::default());
        assert_eq!(
            Revocations::new(Some(forged), &root, now, TIME).edition(),
            Edition::default()
        );
    }

    #[test]
    fn a_list_counts_until_its_grace_is_over_unless_the_server_confirms_it() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut known = Revocations::new(Some(key.sign(list(7, TIME.0 - 40, &[]))), &root, now, TIME);
        assert!(!known.is_stale(after(59)) && known.is_stale(after(60)));
        known.confirm(after(60));
        assert!(!known.is_stale(after(159)) && known.is_stale(after(160)));
        let endless = List {
            grace_seconds: None,
            ..list(8, 0, &[])
        };
        assert!(known.take(key.sign(endless), &root, now, TIME).unwrap());
        assert!(!known.is_stale(after(1_000_000)));
        assert!(!Revocations::default().is_stale(now), "who was never told goes by none");
    }
}
