//! What tells this machine from others, so that a copied data directory is not taken for the node itself.

use std::collections::BTreeMap;

use potluck_model::Digest;
use serde::{Deserialize, Serialize};

/// Where marks are found. The firmware's are for root only.
const PLACES: [(&str, &str); 4] = [
    ("machine-id", "/etc/machine-id"),
    ("product-uuid", "/sys/class/dmi/id/product_uuid"),
    ("product-serial", "/sys/class/dmi/id/product_serial"),
    ("board-serial", "/sys/class/dmi/id/board_serial"),
];
/// What firmware says that was never told.
const NOTHING: [&str; 8] = [
    "none",
    "not specified",
    "not applicable",
    "default string",
    "system serial number",
    "to be filled by o.e.m.",
    "uninitialized",
    "empty",
];
const VALUE_BYTES_MAX: usize = 256;

/// Marks of a machine, by name: digests, since a machine id is nobody else's business.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Machine(BTreeMap<String, String>);

impl Machine {
    /// This machine's, as far as this process may read them.
    pub fn here() -> Self {
        let marks = PLACES.iter().filter_map(|(name, path)| {
            let text = std::fs::read_to_string(path).ok()?;
            Some(((*name).to_owned(), mark(name, &text)?))
        });
        Self(marks.collect())
    }

    /// The name of the first mark that both have and that differs.
    pub fn differs_in(&self, other: &Self) -> Option<&str> {
        let differs = |(name, mark): &(&String, &String)| other.0.get(*name).is_some_and(|theirs| theirs != *mark);
        self.0.iter().find(differs).map(|(name, _)| name.as_str())
    }

    /// Adds marks that were not known; whether there were any.
    pub fn learn(&mut self, other: &Self) -> bool {
        let before = self.0.len();
        for (name, mark) in &other.0 {
            self.0.entry(name.clone()).or_insert_with(|| mark.clone());
        }
        self.0.len() > before
    }
}

/// `None`: a value that many machines have.
fn mark(name: &str, value: &str) -> Option<String> {
    let value = value.trim().to_lowercase();
    let varied = value
        .chars()
        .filter(|c| c.is_alphanumeric())
        .collect::<std::collections::BTreeSet<_>>();
    if value.len() > VALUE_BYTES_MAX || varied.len() < 2 || NOTHING.contains(&value.as_str()) {
        return None;
    }
    Some(Digest::of(format!("potluck machine {name} {value}").as_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(marks: &[(&str, &str)]) -> Machine {
        let marks = marks
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), mark(name, value)?)));
        Machine(marks.collect())
    }

    #[test]
    fn a_machine_is_another_if_a_mark_that_both_have_differs() {
        let one = machine(&[("machine-id", "a1"), ("product-uuid", "b1")]);
        assert_eq!(one.differs_in(&machine(&[("machine-id", "a1")])), None);
        assert_eq!(one.differs_in(&machine(&[("board-serial", "c9")])), None);
        assert_eq!(one.differs_in(&machine(&[("machine-id", "a2")])), Some("machine-id"));
        let moved = machine(&[("machine-id", "a1"), ("product-uuid", "b2")]);
        assert_eq!(one.differs_in(&moved), Some("product-uuid"));
    }

    #[test]
    fn what_many_machines_say_is_no_mark() {
        for nothing in [
            "",
            "  ",
            "None\n",
            "00000000-0000-0000-0000-000000000000",
            "FFFF",
            "Not Specified",
        ] {
            assert_eq!(mark("product-serial", nothing), None, "{nothing:?}");
        }
        assert_eq!(mark("x", "AB12\n"), mark("x", "ab12"));
        assert_ne!(mark("x", "ab12"), mark("y", "ab12"));
    }

    #[test]
    fn marks_that_could_not_be_read_before_are_learnt() {
        let mut known = machine(&[("machine-id", "a1")]);
        let root = machine(&[("machine-id", "a1"), ("product-uuid", "b1")]);
        assert!(known.learn(&root));
        assert!(!known.learn(&root));
        assert_eq!(known, root);
    }
}
