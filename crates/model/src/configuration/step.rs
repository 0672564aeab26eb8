//! One `[[step]]` of a `configuration.toml`.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::fault::nearest;
use super::value::{MODE_ADVICE, Reader, Span, Value};
use super::{CONFIGURATION_FILE, TIMEOUT_SECONDS, TIMEOUT_SECONDS_MAX, Tree, TreeKind, names};
use crate::StepId;
use crate::list::{Action, EnvVar, ExitMeaning, ExitOutcome, PATH_BYTES_MAX, Step};
use crate::units::parse_duration;

const KINDS: [&str; 4] = ["run", "file", "archive", "package"];
const COMMON_KEYS: [&str; 5] = ["id", "needs", "unless", "creates", "timeout"];

/// Keys of one kind of step, beside the common ones.
fn keys_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "run" => &["run", "args", "env", "exit", "inputs"],
        "file" => &["file", "dest", "mode", "keep"],
        "archive" => &["archive", "dest"],
        _ => &["package"],
    }
}

/// A step as it was written, before it is known to fit the others.
pub(super) struct Draft {
    pub(super) id: StepId,
    /// Where its id is, or else the step itself.
    pub(super) at: Span,
    /// Whether the id was made of the source's name.
    pub(super) is_derived: bool,
    pub(super) needs: Vec<(String, Span)>,
    /// Where its destination is.
    pub(super) dest_at: Option<Span>,
    /// `None`: something is wrong with it.
    pub(super) step: Option<Step>,
}

/// Reads one step.
pub(super) struct StepReader<'r, 'e, 't> {
    reader: &'r mut Reader<'e>,
    table: &'t DeTable<'t>,
    at: Span,
    tree: &'t Tree<'t>,
    /// How it is called in messages: by its id, else by its number.
    label: String,
    errors_before: usize,
}

impl<'r, 'e, 't> StepReader<'r, 'e, 't> {
    pub(super) fn new(
        reader: &'r mut Reader<'e>,
        table: &'t DeTable<'t>,
        at: Span,
        number: usize,
        tree: &'t Tree<'t>,
    ) -> Self {
        let id = table.get("id").and_then(|id| id.get_ref().as_str());
        let label = id.map_or_else(
            || format!("step {number}"),
            |id| format!("step {:?}", id.chars().take(80).collect::<String>()),
        );
        let errors_before = reader.errors.len();
        Self {
            reader,
            table,
            at,
            tree,
            label,
            errors_before,
        }
    }

    pub(super) fn read(mut self) -> Option<Draft> {
        let kinds: Vec<&'static str> = KINDS
            .into_iter()
            .filter(|kind| self.table.contains_key(*kind))
            .collect();
        let is_known = self.check_keys(&kinds);
        let kind = match kinds[..] {
            [kind] => kind,
            [] => {
                if is_known {
                    let message = format!("{} does nothing: it needs one of {}", self.label, KINDS.join(", "));
                    self.reader.fault(&self.at, "step", message);
                }
                "none"
            }
            [_, second, ..] => {
                let message = format!(
                    "{} has {}: make a step of each, and order them with needs",
                    self.label,
                    kinds.join(" and ")
                );
                let span = self.table[second].span();
                self.reader.fault(&span, second, message);
                return None;
            }
        };
        let action = self.action(kind);
        let (id, at, is_derived) = self.id(kind)?;
        let needs = self.value("needs", |reader, value| {
            reader.strings("needs", value, "needs = [\"nginx\"]")
        });
        let unless = self.unless();
        let creates = self
            .value("creates", |reader, value| {
                let text = reader.string("creates", value, "creates = \"/etc/app.conf\"")?;
                Some((text, value.span()))
            })
            .and_then(|(text, span)| self.absolute("creates", &text, &span));
        let timeout_seconds = self.timeout();
        let is_good = self.reader.errors.len() == self.errors_before;
        Some(Draft {
            at,
            is_derived,
            needs: needs.unwrap_or_default(),
            dest_at: self.table.get("dest").map(Value::span),
            step: action.filter(|_| is_good).map(|action| Step {
                id: id.clone(),
                action,
                needs: Vec::new(),
                unless,
                creates,
                timeout_seconds,
            }),
            id,
        })
    }

    /// Whether all keys are known; notes those that are not, or that belong to another kind of step.
    fn check_keys(&mut self, kinds: &[&'static str]) -> bool {
        let known: Vec<&str> = match kinds {
            [kind] => COMMON_KEYS.iter().chain(keys_of(kind)).copied().collect(),
            _ => COMMON_KEYS
                .iter()
                .chain(KINDS.iter().flat_map(|kind| keys_of(kind)))
                .copied()
                .collect(),
        };
        let mut is_known = true;
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            is_known = false;
            let owners: Vec<&str> = KINDS.into_iter().filter(|kind| keys_of(kind).contains(&name)).collect();
            if let ([kind], false) = (kinds, owners.is_empty()) {
                if !KINDS.contains(&name) {
                    let message = format!(
                        "{name} belongs to steps with {}, and {} has {kind}",
                        owners.join(" or "),
                        self.label
                    );
                    self.reader.fault(&key.span(), name, message);
                }
            } else {
                let place = format!("in {}", self.label);
                self.reader.unknown(&key.span(), name, &place, &known);
            }
        }
        is_known
    }

    fn value<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader<'e>, &'t Value<'t>) -> Option<T>) -> Option<T> {
        let value = self.table.get(key)?;
        read(self.reader, value)
    }

    fn id(&mut self, kind: &str) -> Option<(StepId, Span, bool)> {
        if let Some(value) = self.table.get("id") {
            let text = self.reader.string("id", value, "id = \"nginx\"").unwrap_or_default();
            let id = text.parse().unwrap_or_else(|fault: crate::NameError| {
                if value.get_ref().is_str() {
                    self.reader.fault(&value.span(), "id", fault.to_string());
                }
                names::to_id(&text)
            });
            return Some((id, value.span(), false));
        }
        let source = self.table.get(kind)?.get_ref();
        let source = source
            .as_str()
            .or_else(|| source.as_array()?.iter().next()?.get_ref().as_str())?;
        let source = source.trim_end_matches('/');
        let name = match kind {
            "run" => names::of_script(source),
            "archive" => names::of_archive(source),
            "package" => names::of_package(source),
            _ => names::base(source),
        };
        Some((names::to_id(name), self.at.clone(), true))
    }

    fn action(&mut self, kind: &str) -> Option<Action> {
        match kind {
            "run" => {
                let source = self.source("run", "run = \"tune.sh\"", |kind| matches!(kind, TreeKind::File { .. }));
                let args = self.value("args", |reader, value| {
                    reader.strings("args", value, "args = [\"--fast\"]")
                });
                let (env, exit, inputs) = (self.env(), self.exit(), self.inputs());
                Some(Action::Run {
                    source: source?,
                    args: args.unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
                    env,
                    exit,
                    inputs,
                })
            }
            "file" => {
                let source = self.source("file", "file = \"site\"", |_| true);
                let is_directory = source
                    .as_ref()
                    .and_then(|source| self.tree.find(source))
                    .is_some_and(|entry| matches!(entry.kind, TreeKind::Directory));
                let dest = self.dest(is_directory || source.is_none());
                let mode = self.mode();
                let keep = self.value("keep", |reader, value| reader.boolean("keep", value));
                Some(Action::File {
                    source: source?,
                    dest: dest?,
                    mode,
                    keep: keep.unwrap_or(false),
                })
            }
            "archive" => {
                let source = self.source("archive", "archive = \"app.tar.gz\"", |kind| {
                    matches!(kind, TreeKind::File { .. })
                });
                if let Some(source) = &source
                    && !names::is_archive(source)
                {
                    let message = format!(
                        "{source:?} cannot be unpacked: archives end in {}",
                        names::ARCHIVES.join(", ")
                    );
                    let span = self.table["archive"].span();
                    self.reader.fault(&span, "archive", message);
                }
                let dest = self.dest(true);
                Some(Action::Archive {
                    source: source?,
                    dest: dest?,
                })
            }
            "package" => self.packages().map(|sources| Action::Package { sources }),
            _ => None,
        }
    }

    /// The path of an entry of the directory.
    fn source(&mut self, key: &str, example: &str, fits: impl Fn(&TreeKind) -> bool) -> Option<String> {
        let value = self.table.get(key)?;
        let text = self.reader.string(key, value, example)?;
        self.entry(key, &text, &value.span(), fits)
    }

    fn entry(&mut self, key: &str, text: &str, span: &Span, fits: impl Fn(&TreeKind) -> bool) -> Option<String> {
        let path = text.strip_prefix("./").unwrap_or(text).trim_end_matches('/');
        let Some(entry) = self.tree.find(path) else {
            let first = path.split_whitespace().next().unwrap_or_default();
            let (message, suggestion) = if path == CONFIGURATION_FILE {
                (
                    format!("{CONFIGURATION_FILE} says how files are used, and is not published itself"),
                    None,
                )
            } else if text.starts_with('/') || text.split('/').any(|name| name == "..") {
                (
                    format!("{text:?} must be a path below the directory, such as \"site/index.html\""),
                    None,
                )
            } else if key == "run" && first != path && self.tree.find(first).is_some() {
                (
                    format!("there is no {path:?} in the directory; arguments go into args, after run = {first:?}"),
                    None,
                )
            } else {
                let suggestion = nearest(path, self.tree.0.iter().map(|entry| entry.path.as_str()));
                (format!("there is no {path:?} in the directory"), suggestion)
            };
            self.reader.fault_with(span, key, message, suggestion);
            return None;
        };
        if !fits(&entry.kind) {
            let found = match entry.kind {
                TreeKind::Directory => "a directory",
                TreeKind::Link => "a symbolic link (name the file itself)",
                TreeKind::File { .. } => "a file",
            };
            self.reader
                .fault(span, key, format!("{key} wants a file, and {path:?} is {found}"));
            return None;
        }
        Some(path.to_owned())
    }

    fn packages(&mut self) -> Option<Vec<String>> {
        const EXAMPLE: &str = "package = [\"nginx_1.26_amd64.deb\", \"nginx-1.26.x86_64.rpm\"]";
        let value = self.table.get("package")?;
        let items = match value.get_ref().as_str() {
            Some(text) => vec![(text.to_owned(), value.span())],
            None => self.reader.strings("package", value, EXAMPLE)?,
        };
        if items.is_empty() {
            self.reader.mistyped("package", value, EXAMPLE);
        }
        let mut sources = Vec::new();
        for (text, span) in items {
            let Some(path) = self.entry("package", &text, &span, |kind| matches!(kind, TreeKind::File { .. })) else {
                continue;
            };
            if names::is_package(&path) {
                sources.push(path);
            } else {
                let message = format!(
                    "{path:?} is no package: packages end in {}",
                    names::PACKAGES.join(" or ")
                );
                self.reader.fault(&span, "package", message);
            }
        }
        Some(sources)
    }

    fn inputs(&mut self) -> Vec<String> {
        let items = self.value("inputs", |reader, value| {
            reader.strings("inputs", value, "inputs = [\"settings\"]")
        });
        let mut inputs = Vec::new();
        for (text, span) in items.unwrap_or_default() {
            inputs.extend(self.entry("inputs", &text, &span, |_| true));
        }
        inputs
    }

    fn env(&mut self) -> Vec<EnvVar> {
        const EXAMPLE: &str = "env = { LEVEL = \"3\" }";
        let Some(value) = self.table.get("env") else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.reader.mistyped("env", value, EXAMPLE);
            return Vec::new();
        };
        let mut vars = Vec::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("POTLUCK_") {
                let why = if name.starts_with("POTLUCK_") {
                    "is set by Potluck itself"
                } else {
                    "is no name of an environment variable"
                };
                self.reader.fault(&key.span(), "env", format!("{name:?} {why}"));
            }
            let Some(text) = value.get_ref().as_str() else {
                self.reader.mistyped("env", value, EXAMPLE);
                continue;
            };
            if text.contains('\0') {
                let message = format!("the value of {name:?} holds a zero byte, which no environment can");
                self.reader.fault(&value.span(), "env", message);
            }
            vars.push(EnvVar {
                name: name.to_owned(),
                value: text.to_owned(),
            });
        }
        vars.sort_by(|a, b| a.name.cmp(&b.name));
        vars
    }

    fn exit(&mut self) -> Vec<ExitMeaning> {
        const EXAMPLE: &str = "exit = { 0 = \"changed\", 2 = \"unchanged\" }";
        const MEANINGS: [(&str, ExitOutcome); 3] = [
            ("changed", ExitOutcome::Changed),
            ("unchanged", ExitOutcome::Unchanged),
            ("failed", ExitOutcome::Failed),
        ];
        let Some(value) = self.table.get("exit") else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.reader.mistyped("exit", value, EXAMPLE);
            return Vec::new();
        };
        let mut exit: BTreeMap<u8, ExitOutcome> = BTreeMap::new();
        for (key, value) in table {
            let code = key.get_ref().as_ref();
            let Ok(number) = code.parse::<u8>() else {
                let message = format!("{code:?} is no exit code: those go from 0 to 255");
                self.reader.fault(&key.span(), "exit", message);
                continue;
            };
            let Some(text) = self.reader.string("exit", value, EXAMPLE) else {
                continue;
            };
            match MEANINGS.iter().find(|(name, _)| *name == text) {
                Some((_, means)) if exit.insert(number, *means).is_none() => {}
                Some(_) => self
                    .reader
                    .fault(&key.span(), "exit", format!("exit code {number} is there twice")),
                None => {
                    let names = MEANINGS.map(|(name, _)| name);
                    let message = format!("exit code {number} cannot mean {text:?}, but {}", names.join(", "));
                    self.reader
                        .fault_with(&value.span(), "exit", message, nearest(&text, names));
                }
            }
        }
        exit.into_iter()
            .map(|(code, means)| ExitMeaning { code, means })
            .collect()
    }

    fn unless(&mut self) -> Option<Vec<String>> {
        const EXAMPLE: &str = "unless = [\"./tune.sh\", \"--check\"]";
        let value = self.table.get("unless")?;
        let words = self.reader.strings("unless", value, EXAMPLE)?;
        if words.is_empty() {
            self.reader.mistyped("unless", value, EXAMPLE);
        }
        Some(words.into_iter().map(|(word, _)| word).collect())
    }

    fn timeout(&mut self) -> u64 {
        let Some(value) = self.table.get("timeout") else {
            return TIMEOUT_SECONDS;
        };
        let Some(text) = self.reader.string("timeout", value, "timeout = \"30m\"") else {
            return TIMEOUT_SECONDS;
        };
        match parse_duration(&text) {
            Ok(duration) if duration.is_zero() => {
                self.reader.fault(
                    &value.span(),
                    "timeout",
                    "a step needs some time; leave timeout out for 1h".into(),
                );
            }
            Ok(duration) if duration.as_secs() >= TIMEOUT_SECONDS_MAX => {
                self.reader
                    .fault(&value.span(), "timeout", "a step may take a year at most".into());
            }
            Ok(duration) => return duration.as_secs() + u64::from(duration.subsec_nanos() > 0),
            Err(fault) => self.reader.fault(&value.span(), "timeout", fault.to_string()),
        }
        TIMEOUT_SECONDS
    }

    fn mode(&mut self) -> Option<u32> {
        let value = self.table.get("mode")?;
        let Some(text) = value.get_ref().as_str() else {
            self.reader.fault(&value.span(), "mode", MODE_ADVICE.to_owned());
            return None;
        };
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        if !digits {
            let message = format!("{text:?} is no mode: write three or four octal digits, such as \"0644\"");
            self.reader.fault(&value.span(), "mode", message);
            return None;
        }
        u32::from_str_radix(text, 8).ok()
    }

    /// `may_end_in_slash`: it is a directory that contents land in.
    fn dest(&mut self, may_end_in_slash: bool) -> Option<String> {
        let Some(value) = self.table.get("dest") else {
            let message = format!("{} does not say where to: add dest = \"/...\"", self.label);
            self.reader.fault(&self.at, "dest", message);
            return None;
        };
        let text = self.reader.string("dest", value, "dest = \"/srv/www\"")?;
        if !may_end_in_slash && text.ends_with('/') {
            let message = format!("dest is the file's final path, with its name; {text:?} is a directory");
            self.reader.fault(&value.span(), "dest", message);
            return None;
        }
        self.absolute("dest", &text, &value.span())
    }

    fn absolute(&mut self, key: &str, text: &str, span: &Span) -> Option<String> {
        let path = text.trim_end_matches('/');
        let is_good = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
        if text.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.split('/').skip(1).all(is_good) {
            return Some(if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            });
        }
        let message = format!("{key} must be an absolute path without \"..\", \".\" or \"//\", not {text:?}");
        self.reader.fault(span, key, message);
        None
    }
}
