//! What signers change together: a root, targets, or both, signed by one after another until there are enough of them.

use crate::metadata::{Role, Root, Signed, Targets};
use crate::{Fault, Trusted};

/// A new root, new targets, or both. They take effect together, once enough have signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The next root.
    pub root: Option<Signed<Root>>,
    /// The next targets, signed as `root` demands if it is given.
    pub targets: Option<Signed<Targets>>,
}

/// Signatures that a change still needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lacking {
    /// Which file.
    pub file: Role,
    /// Whether signers that the root of before names are meant; else those of the root in force with the change.
    pub previous: bool,
    /// Good signatures that it has.
    pub valid: usize,
    /// How many it takes.
    pub threshold: usize,
}

impl Change {
    /// What it lacks to follow `root` and `targets`, which are in force; nothing, if it can take effect. Fails if more
    /// signatures would not help.
    pub fn lacks(&self, root: &Signed<Root>, targets: Option<&Signed<Targets>>) -> Result<Vec<Lacking>, Fault> {
        let mut lacking = Vec::new();
        let mut count = |verdict: Result<(), Fault>, file, previous| match verdict {
            Ok(()) => Ok(()),
            Err(Fault::Unsigned { valid, threshold, .. }) => {
                lacking.push(Lacking {
                    file,
                    previous,
                    valid,
                    threshold,
                });
                Ok(())
            }
            Err(other) => Err(other),
        };
        if let Some(new) = &self.root {
            let known = root.version();
            if new.version() != known + 1 {
                let got = new.version();
                return Err(Fault::NotTheNext { got, known });
            }
            count(root.document.verify(new), Role::Root, true)?;
            count(new.document.verify(new), Role::Root, false)?;
        }
        let in_force = &self.root.as_ref().unwrap_or(root).document;
        match (&self.targets, targets) {
            (Some(new), known) => {
                let known = known.map_or(0, Signed::version);
                if new.version() <= known {
                    let (role, got) = (Role::Targets, new.version());
                    return Err(Fault::Rollback { role, got, known });
                }
                count(in_force.verify(new), Role::Targets, false)?;
            }
            (None, Some(known)) if in_force.verify(known).is_err() => {
                return Err(Fault::MixAndMatch {
                    role: Role::Targets,
                    why: "the new root names other signers for them, so they have to be signed anew with it".into(),
                });
            }
            (None, _) => {}
        }
        Ok(lacking)
    }

    /// Takes the signatures of another copy of the same change. Fails if it is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), Fault> {
        match (&mut self.root, &other.root) {
            (Some(root), Some(other)) => root.merge(other)?,
            (None, None) => {}
            _ => return Err(other_change(Role::Root)),
        }
        match (&mut self.targets, &other.targets) {
            (Some(targets), Some(other)) => targets.merge(other),
            (None, None) => Ok(()),
            _ => Err(other_change(Role::Targets)),
        }
    }
}

fn other_change(role: Role) -> Fault {
    Fault::MixAndMatch {
        role,
        why: "the signatures are of another change".into(),
    }
}

impl Trusted {
    /// The newest root of a chain, of which this one is believed. `chain` holds `1.root.json` and all that follow.
    pub fn follow(&mut self, chain: &[impl AsRef<[u8]>]) -> Result<(), Fault> {
        let known = usize::try_from(self.root().version()).unwrap_or(usize::MAX);
        for next in chain.iter().skip(known) {
            self.update_root(next.as_ref())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use potluck_model::UnixSeconds;

    use super::*;
    use crate::{RootEditor, SecretKey, TargetsEditor};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    struct Fleet {
        key: SecretKey,
        root: Signed<Root>,
        targets: Signed<Targets>,
    }

    fn fleet() -> Fleet {
        let key = SecretKey::generate();
        let mut editor = RootEditor::first(NOW);
        for role in Role::ALL {
            editor.add(role, &key.public());
        }
        let mut root = editor.finish().unwrap();
        root.sign(&key);
        let mut targets = TargetsEditor::first(NOW).finish().unwrap();
        targets.sign(&key);
        Fleet { key, root, targets }
    }

    #[test]
    fn a_change_needs_the_signers_of_before_and_its_own() {
        let fleet = fleet();
        let (one, two) = (SecretKey::generate(), SecretKey::generate());
        let mut editor = RootEditor::after(&fleet.root, NOW);
        for role in [Role::Root, Role::Targets] {
            editor.clear(role).add(role, &one.public()).add(role, &two.public());
            editor.threshold(role, 2);
        }
        let mut change = Change {
            root: Some(editor.finish().unwrap()),
            targets: Some(TargetsEditor::after(&fleet.targets, NOW).finish().unwrap()),
        };
        let lacks = |change: &Change| change.lacks(&fleet.root, Some(&fleet.targets)).unwrap();
        assert_eq!(lacks(&change).len(), 3);
        let unsigned = change.clone();
        change.root.as_mut().unwrap().sign(&fleet.key);
        change.root.as_mut().unwrap().sign(&one);
        change.targets.as_mut().unwrap().sign(&one);
        let left: Vec<_> = lacks(&change)
            .iter()
            .map(|lacking| (lacking.file, lacking.previous, lacking.valid, lacking.threshold))
            .collect();
        assert_eq!(left, [(Role::Root, false, 1, 2), (Role::Targets, false, 1, 2)]);
        let mut other = unsigned;
        other.root.as_mut().unwrap().sign(&two);
        other.targets.as_mut().unwrap().sign(&two);
        change.merge(&other).unwrap();
        assert_eq!(lacks(&change), []);
    }

    #[test]
    fn no_number_of_signatures_makes_up_for_an_older_version_or_for_targets_that_are_not_signed_anew() {
        let fleet = fleet();
        let change = Change {
            root: None,
            targets: Some(fleet.targets.clone()),
        };
        let refused = change.lacks(&fleet.root, Some(&fleet.targets)).unwrap_err();
        assert_eq!(refused.kind(), "rollback");
        let change = Change {
            root: Some(fleet.root.clone()),
            targets: None,
        };
        assert_eq!(change.lacks(&fleet.root, None).unwrap_err().kind(), "root-gap");
        let other = SecretKey::generate();
        let mut editor = RootEditor::after(&fleet.root, NOW);
        editor.clear(Role::Targets).add(Role::Targets, &other.public());
        let change = Change {
            root: Some(editor.finish().unwrap()),
            targets: None,
        };
        let refused = change.lacks(&fleet.root, Some(&fleet.targets)).unwrap_err();
        assert_eq!(refused.kind(), "mix-and-match");
    }

    #[test]
    fn signatures_of_another_change_are_not_taken() {
        let fleet = fleet();
        let of = |version: u64| {
            let mut editor = TargetsEditor::after(&fleet.targets, NOW);
            editor.at_least(version);
            Change {
                root: None,
                targets: Some(editor.finish().unwrap()),
            }
        };
        let mut change = of(2);
        assert!(change.merge(&of(3)).is_err());
        let root = Change {
            root: Some(fleet.root.clone()),
            targets: None,
        };
        assert!(change.merge(&root).is_err());
        change.merge(&of(2)).unwrap();
    }
}
