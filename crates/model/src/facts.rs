//! What a machine says of itself: the facts that conditions and templates may use. Gathered by `provision`.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a fact can be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// Text; empty where the machine has no such thing.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

/// Types of facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FactType {
    /// `Fact::Text`.
    Text,
    /// `Fact::Number`.
    Number,
    /// `Fact::Flag`.
    Flag,
}

impl FactType {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a number",
            Self::Flag => "true or false",
        }
    }
}

/// A fact that every node of this version knows.
#[derive(Clone, Copy, Debug)]
pub struct KnownFact {
    /// As in `facts.NAME`.
    pub name: &'static str,
    /// Its type.
    pub kind: FactType,
    /// What it says.
    pub about: &'static str,
}

const fn known(name: &'static str, kind: FactType, about: &'static str) -> KnownFact {
    KnownFact { name, kind, about }
}

/// All facts, by name. docs/configuration.md has the same table.
pub const FACTS: [KnownFact; 15] = [
    known("arch", FactType::Text, "processor: x86_64, aarch64, …"),
    known(
        "container",
        FactType::Text,
        "the container it runs in, as systemd names them: docker, podman, lxc, …; else empty",
    ),
    known("cpu_count", FactType::Number, "processors that are online"),
    known(
        "distribution",
        FactType::Text,
        "ID of os-release(5): debian, ubuntu, fedora, …",
    ),
    known(
        "distribution_like",
        FactType::Text,
        "ID_LIKE of os-release(5), words with spaces between them",
    ),
    known(
        "distribution_version",
        FactType::Text,
        "VERSION_ID of os-release(5): 12, 24.04, …",
    ),
    known("hostname", FactType::Text, "the machine's name"),
    known("init", FactType::Text, "systemd where it runs, else empty"),
    known("kernel", FactType::Text, "release of the kernel"),
    known("memory_mb", FactType::Number, "memory in MiB"),
    known("os", FactType::Text, "linux"),
    known("package_manager", FactType::Text, "dpkg, rpm, or empty"),
    known(
        "product",
        FactType::Text,
        "what the maker calls the machine; empty where it does not say",
    ),
    known(
        "root_free_mb",
        FactType::Number,
        "room that is free on the file system of the root, in MiB",
    ),
    known(
        "vendor",
        FactType::Text,
        "the machine's maker; empty where it does not say",
    ),
];

/// The fact of that name, if this version knows it.
pub fn find(name: &str) -> Option<&'static KnownFact> {
    FACTS.iter().find(|fact| fact.name == name)
}

/// A machine's facts, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Facts(pub BTreeMap<String, Fact>);

impl Facts {
    /// Adds one.
    pub fn set(&mut self, name: &str, fact: Fact) {
        self.0.insert(name.to_owned(), fact);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_documented() {
        let documents = include_str!("../../../docs/configuration.md");
        for fact in FACTS {
            let line = format!("| `{}` | {} | {} |", fact.name, fact.kind.name(), fact.about);
            assert!(documents.contains(&line), "docs/configuration.md lacks\n{line}");
        }
        assert!(FACTS.is_sorted_by_key(|fact| fact.name));
    }
}
