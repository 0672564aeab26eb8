//! One `[[step]]` of a `configuration.toml`.

use toml::de::DeTable;

use super::keys::{self, KINDS};
use super::value::{Reader, Span, Value};
use super::{TIMEOUT_SECONDS, TIMEOUT_SECONDS_MAX, Tree, names};
use crate::StepId;
use crate::condition::Condition;
use crate::list::{PATH_BYTES_MAX, Step};
use crate::units::parse_duration;

/// A step as it was written, before it is known to fit the others.
pub(super) struct Draft {
    pub(super) id: StepId,
    /// Where its id is, or else the step itself.
    pub(super) at: Span,
    /// Whether the id was made of the source's name.
    pub(super) is_derived: bool,
    pub(super) needs: Vec<(String, Span)>,
    pub(super) notify: Vec<(String, Span)>,
    /// Where its destination is.
    pub(super) dest_at: Option<Span>,
    /// `None`: something is wrong with it.
    pub(super) step: Option<Step>,
    /// Which of the releases that are included it is of.
    pub(super) part: Option<usize>,
}

/// Reads one step.
pub(super) struct StepReader<'r, 'e, 't> {
    pub(super) reader: &'r mut Reader<'e>,
    pub(super) table: &'t DeTable<'t>,
    pub(super) at: Span,
    pub(super) tree: &'t Tree<'t>,
    /// How it is called in messages: by its id, else by its number.
    pub(super) label: String,
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
        let mut kinds: Vec<&'static str> = KINDS
            .into_iter()
            .filter(|kind| self.table.contains_key(*kind))
            .collect();
        // What is a kind of step of its own may also say something of another: `user` of `run`.
        if let [first, second] = kinds[..] {
            if keys::names_of(first).any(|name| name == second) {
                kinds.pop();
            } else if keys::names_of(second).any(|name| name == first) {
                kinds.remove(0);
            }
        }
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
        let unless = self.command("unless", "unless = [\"./tune.sh\", \"--check\"]");
        let undo = self.command("undo", "undo = [\"./tune.sh\", \"--undo\"]");
        let creates = self
            .value("creates", |reader, value| {
                let text = reader.string("creates", value, "creates = \"/etc/app.conf\"")?;
                Some((text, value.span()))
            })
            .and_then(|(text, span)| self.absolute("creates", &text, &span));
        let when = self.when();
        let timeout_seconds = self.timeout();
        let notify = self.value("notify", |reader, value| {
            reader.strings("notify", value, "notify = [\"reload-nginx\"]")
        });
        let (retry, limits) = (self.retry(), self.limits());
        let on_failure = self.on_failure();
        let on_interrupt = self.on_interrupt();
        let is_good = self.reader.errors.len() == self.errors_before;
        Some(Draft {
            at,
            is_derived,
            needs: needs.unwrap_or_default(),
            notify: notify.unwrap_or_default(),
            dest_at: self.table.get("dest").map(Value::span),
            step: action.filter(|_| is_good).map(|action| Step {
                unless,
                creates,
                when,
                undo,
                retry,
                on_failure,
                on_interrupt,
                limits,
                ..Step::new(id.clone(), action, timeout_seconds)
            }),
            id,
            part: None,
        })
    }

    /// Whether all keys are known; notes those that are not, or that belong to another kind of step.
    fn check_keys(&mut self, kinds: &[&'static str]) -> bool {
        let known: Vec<&str> = match kinds {
            [kind] => keys::common_names().chain(keys::names_of(kind)).collect(),
            _ => {
                let mut all: Vec<&str> = keys::KEYS.iter().map(|key| key.name).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        };
        let mut is_known = true;
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            is_known = false;
            let owners = keys::owners(name);
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

    pub(super) fn value<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Reader<'e>, &'t Value<'t>) -> Option<T>,
    ) -> Option<T> {
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
            "run" | "ansible" | "cloud-init" => names::of_script(source),
            "template" => names::of_template(source),
            "service" if !source.contains('.') => &format!("{source}.service"),
            // A user is often called like its service and its package.
            "user" => &format!("user-{source}"),
            "archive" => names::of_archive(source),
            "package" => names::of_package(source),
            _ => names::base(source),
        };
        Some((names::to_id(name), self.at.clone(), true))
    }

    /// A command: words, at least one.
    fn command(&mut self, key: &str, example: &str) -> Option<Vec<String>> {
        let value = self.table.get(key)?;
        let words = self.reader.strings(key, value, example)?;
        if words.is_empty() {
            self.reader.mistyped(key, value, example);
        }
        Some(words.into_iter().map(|(word, _)| word).collect())
    }

    fn when(&mut self) -> Option<String> {
        let value = self.table.get("when")?;
        let text = self
            .reader
            .string("when", value, "when = \"facts.memory_mb >= 2048\"")?;
        match Condition::parse_known(&text) {
            Ok(_) => Some(text),
            Err(fault) => {
                let span = self.reader.inside(&value.span(), &text, &fault.at);
                self.reader.fault_with(&span, "when", fault.message, fault.suggestion);
                None
            }
        }
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

    pub(super) fn absolute(&mut self, key: &str, text: &str, span: &Span) -> Option<String> {
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
