//! `include`: a configuration made of releases of others. Their steps come first, and all becomes one list.
//!
//! What is included was resolved when it was published, so that nothing is included twice or in a circle unless two releases say so.
//! The files of all keep their names: one name cannot stand for two different files.

use std::collections::{BTreeMap, BTreeSet};

use super::step::Draft;
use super::value::{Reader, Span, Value};
use super::{Tree, TreeEntry, TreeKind};
use crate::list::{Action, Entry, HEALTH_CHECKS_MAX, IncludedRelease, List, Settings, is_under};
use crate::{ConfigurationName, VersionName};

/// The most configurations that one includes by itself.
pub const INCLUDES_MAX: usize = 64;
const EXAMPLE: &str = "include = [\"base@>=3\"]";

/// A configuration to include, and which release of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Include {
    /// The configuration.
    pub configuration: ConfigurationName,
    /// The release.
    pub wanted: Wanted,
}

/// Which release is included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wanted {
    /// `base`: the newest.
    Newest,
    /// `base@>=3`: the newest, which must not be older than this.
    AtLeast(u64),
    /// `base@3`
    Exactly(u64),
    /// `base@2026.1`: the one that is called so.
    Named(VersionName),
}

/// Why a release cannot be included: what the publisher finds out who looks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncludeFault {
    /// What is wrong.
    pub message: String,
    /// The configuration that was meant, probably.
    pub suggestion: Option<String>,
}

/// Finds the list of the release that is to be included.
pub type Find<'a> = &'a dyn Fn(&Include) -> Result<List, IncludeFault>;

impl Wanted {
    /// Of releases, by number and name, the number of the one to include.
    pub fn of<'a>(&self, releases: impl Iterator<Item = (u64, Option<&'a VersionName>)>) -> Option<u64> {
        let fits = |(number, version): &(u64, Option<&VersionName>)| match self {
            Self::Newest => true,
            Self::AtLeast(least) => number >= least,
            Self::Exactly(wanted) => number == wanted,
            Self::Named(wanted) => *version == Some(wanted),
        };
        releases.filter(fits).map(|(number, _)| number).max()
    }
}

impl std::fmt::Display for Include {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.configuration;
        match &self.wanted {
            Wanted::Newest => write!(f, "{name}"),
            Wanted::AtLeast(least) => write!(f, "{name}@>={least}"),
            Wanted::Exactly(number) => write!(f, "{name}@{number}"),
            Wanted::Named(version) => write!(f, "{name}@{version}"),
        }
    }
}

impl std::str::FromStr for Include {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, wanted) = match text.split_once('@') {
            None => (text, Wanted::Newest),
            Some((name, wanted)) => (name, self::wanted(wanted)?),
        };
        let configuration = name.parse().map_err(|fault: crate::NameError| fault.to_string())?;
        Ok(Self { configuration, wanted })
    }
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let number = |text: &str| text.trim().parse::<u64>().ok().filter(|number| *number > 0);
    if let Some(least) = text.strip_prefix(">=") {
        let fault = || format!("{least:?} is no number of a release: write for example {EXAMPLE}");
        return number(least).map(Wanted::AtLeast).ok_or_else(fault);
    }
    if let Some(number) = number(text) {
        return Ok(Wanted::Exactly(number));
    }
    let fault =
        |_| format!("{text:?} is neither the number of a release, nor >= and a number, nor the name of a version");
    text.parse().map(Wanted::Named).map_err(fault)
}

/// What a `configuration.toml` includes, as far as that can be read: to be looked for before it is resolved.
pub fn includes(toml: &str) -> Vec<Include> {
    let mut errors = Vec::new();
    let (mut reader, table) = Reader::parse(toml, &mut errors);
    let found = table
        .get("include")
        .map(|value| read(&mut reader, value))
        .unwrap_or_default();
    found.into_iter().map(|(include, _)| include).collect()
}

pub(super) fn read(reader: &mut Reader<'_>, value: &Value<'_>) -> Vec<(Include, Span)> {
    let mut includes: Vec<(Include, Span)> = Vec::new();
    for (text, span) in reader.strings("include", value, EXAMPLE).unwrap_or_default() {
        match text.parse::<Include>() {
            Ok(include)
                if includes
                    .iter()
                    .any(|(other, _)| other.configuration == include.configuration) =>
            {
                let message = format!("{} is included twice", include.configuration);
                reader.fault(&span, "include", message);
            }
            Ok(include) => includes.push((include, span)),
            Err(message) => reader.fault(&span, "include", message),
        }
    }
    if includes.len() > INCLUDES_MAX {
        let message = format!(
            "{} configurations are included; at most {INCLUDES_MAX} are possible",
            includes.len()
        );
        reader.fault(&value.span(), "include", message);
        includes.truncate(INCLUDES_MAX);
    }
    includes
}

/// A release that is included.
struct Part {
    list: List,
    span: Span,
}

impl Part {
    fn name(&self) -> String {
        format!("{} release {}", self.list.configuration, self.list.release)
    }
}

/// The releases that are included, and the directory itself.
pub(super) struct Parts {
    releases: Vec<Part>,
    /// What stands at each path, and whose it is: the part's number, none for the directory itself.
    all: BTreeMap<Vec<u8>, (TreeEntry, BTreeSet<Option<usize>>)>,
    /// What the directory does not have itself.
    pub(super) entries: Vec<Entry>,
}

impl Parts {
    /// Finds the releases and puts their files together with those of the directory. `name`: of the configuration that includes them.
    pub(super) fn find(
        reader: &mut Reader<'_>,
        includes: Vec<(Include, Span)>,
        find: Find<'_>,
        name: Option<&ConfigurationName>,
        own: Tree<'_>,
    ) -> Self {
        let mut parts = Vec::new();
        for (include, span) in includes {
            if name == Some(&include.configuration) {
                reader.fault(&span, "include", format!("{include} is this configuration itself"));
                continue;
            }
            match find(&include) {
                Ok(list) => {
                    let back = list.settings.includes.iter().find(|of| Some(&of.configuration) == name);
                    if let Some(back) = back {
                        let message = format!(
                            "a circle: {} release {} includes {} release {}, which is this configuration",
                            list.configuration, list.release, back.configuration, back.release
                        );
                        reader.fault(&span, "include", message);
                    } else {
                        parts.push(Part { list, span });
                    }
                }
                Err(fault) => reader.fault_with(&span, "include", fault.message, fault.suggestion),
            }
        }
        let mut all = BTreeMap::new();
        for entry in own.entries {
            all.insert(entry.path.clone().into_bytes(), (entry.clone(), BTreeSet::from([None])));
        }
        let mut merged = Self {
            releases: parts,
            all,
            entries: Vec::new(),
        };
        for number in 0..merged.releases.len() {
            merged.add(reader, number);
        }
        merged
    }

    /// Adds the files of a part. Directories may be in several, files only if they are the same.
    fn add(&mut self, reader: &mut Reader<'_>, number: usize) {
        let part = &self.releases[number];
        let mut conflicts: Vec<(&str, Option<usize>)> = Vec::new();
        for entry in &part.list.entries {
            let path = entry.path().as_bytes();
            let Some((there, whose)) = self.all.get_mut(path) else {
                let found = (tree_entry(entry), BTreeSet::from([Some(number)]));
                self.all.insert(path.to_owned(), found);
                self.entries.push(entry.clone());
                continue;
            };
            let both_directories = matches!((entry, &there.kind), (Entry::Directory { .. }, TreeKind::Directory));
            let same = || {
                let other = whose.iter().flatten().next().map(|other| &self.releases[*other].list);
                other.and_then(|list| list.entry(entry.path())) == Some(entry)
            };
            if both_directories || same() {
                whose.insert(Some(number));
            } else {
                conflicts.push((entry.path(), whose.iter().next().copied().flatten()));
            }
        }
        if let Some((path, of)) = conflicts.first() {
            let more = match conflicts.len() {
                1 => String::new(),
                more => format!(", and {} more", more - 1),
            };
            let message = format!(
                "{} has {path:?}{more}, and so has {}: the files of all share one directory; rename one of them",
                part.name(),
                self.owner(*of)
            );
            reader.fault(&part.span, "include", message);
        }
    }

    fn owner(&self, part: Option<usize>) -> String {
        part.map_or_else(|| "this directory".to_owned(), |part| self.releases[part].name())
    }

    /// All files, sorted by the bytes of the path.
    pub(super) fn tree(&self) -> Vec<TreeEntry> {
        self.all.values().map(|(entry, _)| entry.clone()).collect()
    }

    /// The steps that are included, in the order of their lists. One that is in several, and the same, is there once.
    pub(super) fn drafts(&self) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        for (number, part) in self.releases.iter().enumerate() {
            for step in &part.list.steps {
                let known = drafts.iter().any(|draft| draft.step.as_ref() == Some(step));
                if known {
                    continue;
                }
                let placed = |ids: &[crate::StepId]| ids.iter().map(|id| (id.to_string(), part.span.clone())).collect();
                drafts.push(Draft {
                    id: step.id.clone(),
                    at: part.span.clone(),
                    is_derived: false,
                    needs: placed(&step.needs),
                    notify: placed(&step.notify),
                    dest_at: Some(part.span.clone()),
                    step: Some(step.clone()),
                    part: Some(number),
                });
            }
        }
        drafts
    }

    /// Where a step comes from, for messages; nothing if it is the directory's own.
    pub(super) fn of(&self, draft: &Draft) -> String {
        draft
            .part
            .map_or_else(String::new, |part| format!(" of {}", self.releases[part].name()))
    }

    /// A step that uses a whole directory uses what its publisher has put there, and nothing else.
    pub(super) fn check_directories(&self, reader: &mut Reader<'_>, drafts: &[Draft]) {
        if self.releases.is_empty() {
            return;
        }
        for draft in drafts {
            let Some(step) = &draft.step else { continue };
            for source in directories(&step.action) {
                let foreign = self
                    .under(source)
                    .find(|(entry, whose)| !matches!(entry.kind, TreeKind::Directory) && !whose.contains(&draft.part));
                if let Some((entry, whose)) = foreign {
                    let message = format!(
                        "step {:?}{} uses all of {source:?}, and {} has {:?} in it: rename one of the directories",
                        draft.id.as_str(),
                        self.of(draft),
                        self.owner(whose.iter().next().copied().flatten()),
                        entry.path
                    );
                    let part = draft.part.or(whose.iter().next().copied().flatten());
                    let span = part.map_or(&draft.at, |part| &self.releases[part].span);
                    reader.fault(span, "include", message);
                }
            }
        }
    }

    fn under<'p>(&'p self, path: &'p str) -> impl Iterator<Item = &'p (TreeEntry, BTreeSet<Option<usize>>)> {
        self.all
            .range(path.as_bytes().to_vec()..)
            .take_while(move |(at, _)| at.starts_with(path.as_bytes()))
            .map(|(_, found)| found)
            .filter(move |(entry, _)| is_under(&entry.path, path))
    }

    /// Variables, checks and origins of all. What the directory sets itself goes before.
    pub(super) fn settings(&self, reader: &mut Reader<'_>, own: Settings) -> Settings {
        let mut merged = Settings::default();
        let mut set_by: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, part) in self.releases.iter().enumerate() {
            // Whatever else settings may say one day: it has to be thought of here.
            let Settings { vars, health, includes } = &part.list.settings;
            for (name, value) in vars {
                if own.vars.contains_key(name) {
                    continue;
                }
                match set_by.get(name.as_str()) {
                    Some(other) if merged.vars.get(name) != Some(value) => {
                        let message = format!(
                            "{} and {} set the variable {name:?} to different values: set it in [vars] here",
                            self.releases[*other].name(),
                            part.name()
                        );
                        reader.fault(&part.span, "include", message);
                    }
                    Some(_) => {}
                    None => {
                        set_by.insert(name, number);
                        merged.vars.insert(name.clone(), value.clone());
                    }
                }
            }
            merged.health.extend(health.iter().cloned());
            merged.includes.extend(includes.iter().cloned());
            merged.includes.push(IncludedRelease {
                configuration: part.list.configuration.clone(),
                release: part.list.release,
                list: part.list.digest(),
            });
        }
        merged.vars.extend(own.vars);
        merged.health.extend(own.health);
        let mut seen = Vec::new();
        merged.health.retain(|check| {
            let new = !seen.contains(check);
            seen.push(check.clone());
            new
        });
        if merged.health.len() > HEALTH_CHECKS_MAX
            && let Some(part) = self.releases.last()
        {
            let message = format!("with what is included there are more than {HEALTH_CHECKS_MAX} health checks");
            reader.fault(&part.span, "include", message);
        }
        merged.includes.sort();
        merged.includes.dedup();
        merged
    }
}

/// Directories of the release that a step may use whole.
fn directories(action: &Action) -> Vec<&str> {
    match action {
        Action::File { source, .. } => vec![source],
        Action::Run { inputs, .. } => inputs.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

fn tree_entry(entry: &Entry) -> TreeEntry {
    TreeEntry {
        path: entry.path().to_owned(),
        kind: match entry {
            Entry::Directory { .. } => TreeKind::Directory,
            Entry::Link { .. } => TreeKind::Link,
            Entry::File { mode, size, .. } => TreeKind::File {
                mode: *mode,
                size: *size,
                first: Vec::new(),
            },
        },
    }
}
