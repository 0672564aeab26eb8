//! What is in force in a fleet, verified before anything is signed on top of it.

use std::collections::BTreeSet;

use potluck_model::api::{TrustAnswer, TrustChange, TrustInfo};
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{Change, Document, Fault, Role, Root, Signed, Targets, TargetsEditor, Trusted};

use super::Ring;
use crate::exit::{Doing, Exit, Failure};
use crate::operator::Operator;

/// Digits of a key's id that people are shown.
const SHORT_DIGITS: usize = 16;

/// What is in force, as far as this machine believes the server.
pub(crate) struct Fleet {
    /// The newest root.
    pub(crate) root: Signed<Root>,
    /// The newest targets, from the server or from this machine.
    pub(crate) targets: Option<Signed<Targets>>,
    /// What the server says.
    pub(crate) info: TrustInfo,
    /// The root that follows `root`, which this machine knows and the server has lost: it was restored from a backup.
    pub(crate) lost: Option<Signed<Root>>,
}

impl Fleet {
    /// Asks the server, and holds what it says against what was believed before: first `ring`, then the operator's
    /// credential says which fleet it is.
    pub(crate) async fn of(operator: &Operator, ring: &Ring) -> Result<Self, Failure> {
        let fleet = Self::even_if_behind(operator, ring).await?;
        if fleet.lost.is_some() {
            return Err(Failure::new(format!(
                "[rollback] {} does not know the newest root any more, which this machine knows",
                operator.server()
            ))
            .advice("If it was restored from a backup, `potluck key renew` brings it up to date."));
        }
        Ok(fleet)
    }

    /// The same, also if the server has lost the newest root.
    pub(crate) async fn even_if_behind(operator: &Operator, ring: &Ring) -> Result<Self, Failure> {
        let info: TrustInfo = operator.client.get("/v1/trust").await?;
        Self::believe(info, ring, operator.releases)
            .map_err(|failure| failure.while_doing(format!("reading what {} has signed", operator.server())))
    }

    fn believe(info: TrustInfo, ring: &Ring, pinned: Option<Digest>) -> Result<Self, Failure> {
        let refused = |fault: Fault| Failure::new(format!("[{}] {fault}", fault.kind()));
        let first = match (ring.recall(Role::Root)?, pinned) {
            (Some(known), _) => known,
            (None, Some(pinned)) => {
                let mut roots = info.roots.iter();
                let found = roots.find(|root| Digest::of(root.as_bytes()) == pinned);
                let found = found.ok_or_else(|| {
                    Failure::new("none of the publishers' roots is the one that the operator's join string named")
                        .advice("The server was tampered with, or it is another fleet's: sign nothing.")
                })?;
                found.clone().into_bytes()
            }
            (None, None) => info.roots.first().cloned().unwrap_or_default().into_bytes(),
        };
        let mut trusted = Trusted::from_root(&first).map_err(refused)?;
        let known = trusted.root().version();
        trusted.follow(&info.roots).map_err(|fault| {
            refused(fault).advice(format!(
                "This is not the fleet that {} was used for, or its server was tampered with: sign nothing. Keys for another \
                 fleet belong into a directory of their own (--keys).",
                ring.dir().display()
            ))
        })?;
        let mut root = trusted.root().clone();
        let mut lost = None;
        let count = info.roots.len() as u64;
        if count + 1 == root.version()
            && let Some(last) = info.roots.last()
        {
            let last = Signed::<Root>::from_bytes(last.as_bytes()).map_err(refused)?;
            last.document.verify(&root).map_err(refused)?;
            lost = Some(std::mem::replace(&mut root, last));
        } else if count != root.version() {
            return Err(Failure::new(format!(
                "[rollback] the server knows {count} roots, and root {known} is known here: it is an old copy, or was tampered with"
            )));
        }
        let given = match &info.targets {
            Some(text) => Some(Signed::<Targets>::from_bytes(text.as_bytes()).map_err(refused)?),
            None => None,
        };
        if let Some(given) = &given {
            root.document.verify(given).map_err(refused)?;
        }
        // A server that was restored from a backup has older ones than were signed here.
        let own = match ring.recall(Role::Targets)? {
            Some(bytes) => Some(Signed::<Targets>::from_bytes(&bytes).map_err(refused)?),
            None => None,
        };
        let newest = &lost.as_ref().unwrap_or(&root).document;
        let own = own.filter(|own| newest.verify(own).is_ok());
        let version = |targets: &Option<Signed<Targets>>| targets.as_ref().map_or(0, Signed::version);
        let targets = if version(&own) > version(&given) { own } else { given };
        Ok(Self {
            root,
            targets,
            info,
            lost,
        })
    }

    /// Whether releases are signed by the server.
    pub(crate) fn is_signed_by_server(&self) -> bool {
        self.info.held.iter().any(|role| role == Role::Targets.name())
    }

    /// Targets that follow those in force, without releases that the server does not have any more.
    pub(crate) fn next_targets(&self, now: UnixSeconds) -> Result<TargetsEditor, Failure> {
        let mut editor = match &self.targets {
            Some(targets) => TargetsEditor::after(targets, now),
            None => TargetsEditor::first(now),
        };
        editor.at_least(now.0);
        let there: BTreeSet<&Digest> = self.info.lists.iter().collect();
        editor
            .keep_releases(|list| there.contains(list))
            .doing(|| "signing releases".to_owned())?;
        Ok(editor)
    }

    /// Signs a change with all keys of `ring` whose signatures count, before or after it. Fails if there is none.
    pub(crate) fn sign(&self, ring: &Ring, change: &mut Change) -> Result<(), Failure> {
        let next = change.root.as_ref().map(|root| &root.document);
        let of = |role: Role| -> BTreeSet<&str> {
            let after = next.unwrap_or(&self.root.document).role(role).keyids.iter();
            let mut ids: BTreeSet<&str> = after.map(String::as_str).collect();
            if role == Role::Root {
                ids.extend(self.root.document.role(role).keyids.iter().map(String::as_str));
            }
            ids
        };
        let (of_root, of_targets) = (of(Role::Root), of(Role::Targets));
        let counts = |id: &str| {
            (change.root.is_some() && of_root.contains(id)) || (change.targets.is_some() && of_targets.contains(id))
        };
        let keys = ring.unlock(counts)?;
        if keys.is_empty() {
            return Err(Failure::new(format!(
                "signing: no key in {} is one of this fleet's publishers",
                ring.dir().display()
            ))
            .advice(
                "Name the directory of a publisher's key with --keys DIR; `potluck key list` shows whose keys count.",
            ));
        }
        let mut signatures: Vec<_> = Vec::new();
        for key in &keys {
            let id = key.public().id();
            signatures.push((key, of_root.contains(id.as_str()), of_targets.contains(id.as_str())));
        }
        for (key, for_root, for_targets) in signatures {
            if let Some(root) = change.root.as_mut().filter(|_| for_root) {
                root.sign(key);
            }
            if let Some(targets) = change.targets.as_mut().filter(|_| for_targets) {
                targets.sign(key);
            }
        }
        Ok(())
    }

    /// Gives a signed change to the server, and notes what is in force from then on.
    pub(crate) async fn submit(
        &self,
        operator: &Operator,
        ring: &Ring,
        change: &Change,
        releases: &[Digest],
    ) -> Result<TrustAnswer, potluck_net::api::ApiFault> {
        let request = TrustChange {
            root: change.root.as_ref().map(text),
            targets: change.targets.as_ref().map(text),
            releases: releases.to_vec(),
        };
        let answer: TrustAnswer = operator.client.put("/v1/trust", &request).await?;
        if answer.applied {
            let mut applied = change.clone();
            if let Some(root) = &mut applied.root {
                // With the signatures of others.
                let info: TrustInfo = operator.client.get("/v1/trust").await?;
                let theirs = info
                    .roots
                    .last()
                    .and_then(|text| Signed::from_bytes(text.as_bytes()).ok());
                let merged = theirs.is_some_and(|theirs| root.merge(&theirs).is_ok());
                if !merged {
                    tracing::debug!("another root has come into force meanwhile");
                }
            }
            if let Err(failure) = self.note(ring, &applied) {
                // It is in force; the next command notes it.
                tracing::warn!("{failure}");
            }
        }
        Ok(answer)
    }

    /// Notes what is in force, with `change` on top of it: nothing older is believed on this machine from now on.
    pub(crate) fn note(&self, ring: &Ring, change: &Change) -> Result<(), Failure> {
        let root = change.root.as_ref().unwrap_or(&self.root);
        ring.note(Role::Root, &root.to_bytes())?;
        if let Some(targets) = change.targets.as_ref().or(self.targets.as_ref()) {
            ring.note(Role::Targets, &targets.to_bytes())?;
        }
        Ok(())
    }
}

fn text<T: Document>(file: &Signed<T>) -> String {
    String::from_utf8(file.to_bytes()).expect("JSON is UTF-8")
}

/// The beginning of a key's id.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(SHORT_DIGITS).collect()
}

/// What became of a change, for people.
pub(crate) fn applied(answer: &TrustAnswer, what: &str) -> String {
    if answer.applied {
        return what.to_owned();
    }
    format!(
        "signed here, and waiting for others with `potluck key sign`: {}",
        answer.lacking.join(", ")
    )
}

/// What a change does, line by line, for whoever is to sign it.
pub(crate) fn describe(fleet: &Fleet, change: &Change) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let before = &fleet.root.document;
    if let Some(root) = &change.root {
        for role in Role::ALL {
            let (old, new) = (before.role(role), root.document.role(role));
            let differ = |from: &[String], to: &[String]| -> Vec<String> {
                from.iter().filter(|id| !to.contains(id)).map(|id| short(id)).collect()
            };
            let added = differ(&new.keyids, &old.keyids).into_iter().map(|id| format!("+{id}"));
            let removed = differ(&old.keyids, &new.keyids).into_iter().map(|id| format!("-{id}"));
            let mut parts: Vec<String> = added.chain(removed).collect();
            if old.threshold != new.threshold {
                parts.push(format!("threshold {} instead of {}", new.threshold, old.threshold));
            }
            if !parts.is_empty() {
                lines.push(format!("{role}: {}", parts.join(", ")));
            }
        }
    }
    if let Some(targets) = &change.targets {
        let list = |targets: &Targets| -> Result<BTreeSet<String>, Failure> {
            let mut releases = BTreeSet::new();
            for release in targets.releases() {
                let (name, number, permission) = release
                    .doing(|| "reading what is to be signed".to_owned())
                    .map_err(|failure| failure.exit(Exit::Data))?;
                let only = permission
                    .only
                    .map_or_else(String::new, |only| format!(", for {} nodes only", only.len()));
                let minimum = permission
                    .minimum
                    .map_or_else(String::new, |minimum| format!(", nothing below release {minimum}"));
                releases.insert(format!(
                    "release {number} of {name} ({}){only}{minimum}",
                    permission.list
                ));
            }
            Ok(releases)
        };
        let old = match &fleet.targets {
            Some(old) => list(&old.document)?,
            None => BTreeSet::new(),
        };
        let new = list(&targets.document)?;
        lines.extend(new.difference(&old).map(|line| format!("permits {line}")));
        lines.extend(old.difference(&new).map(|line| format!("withdraws {line}")));
    }
    if lines.is_empty() {
        lines.push("signs what is in force anew".to_owned());
    }
    Ok(lines)
}
