//! What a step does: the keys of each kind of step.

use std::collections::BTreeMap;

use super::fault::nearest;
use super::keys::{MEANINGS, SERVICE_STATES};
use super::step::StepReader;
use super::value::{MODE_ADVICE, Span};
use super::{CONFIGURATION_FILE, TreeKind, cloud_config, names};
use crate::list::{Action, EnvVar, ExitMeaning, ExitOutcome, PATH_BYTES_MAX, ServiceState};
use crate::template;
use crate::units::print_size;

impl StepReader<'_, '_, '_> {
    pub(super) fn action(&mut self, kind: &str) -> Option<Action> {
        match kind {
            "run" => {
                let source = self.file("run", "run = \"tune.sh\"");
                let args = self.value("args", |reader, value| {
                    reader.strings("args", value, "args = [\"--fast\"]")
                });
                let (env, exit, inputs) = (self.env(), self.exit(), self.inputs());
                let user = self.account("user", "user = \"www-data\"");
                Some(Action::Run {
                    source: source?,
                    args: args.unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
                    env,
                    exit,
                    inputs,
                    user,
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
                let keep = self.flag("keep").unwrap_or(false);
                let purge = self.flag("purge").unwrap_or(false);
                if purge && source.is_some() && !is_directory {
                    let message = "purge is for directories, and removes what else is in them".to_owned();
                    self.reader.fault(&self.table["purge"].span(), "purge", message);
                }
                if purge && dest.as_deref() == Some("/") {
                    let message = "purge would remove all that is on the machine".to_owned();
                    self.reader.fault(&self.table["purge"].span(), "purge", message);
                }
                Some(Action::File {
                    source: source?,
                    dest: dest?,
                    mode,
                    keep,
                    purge,
                })
            }
            "template" => {
                let source = self.file("template", "template = \"app.conf.j2\"");
                if let Some(source) = &source {
                    self.check_template(source);
                }
                let (dest, mode) = (self.dest(false), self.mode());
                let keep = self.flag("keep").unwrap_or(false);
                Some(Action::Template {
                    source: source?,
                    dest: dest?,
                    mode,
                    keep,
                })
            }
            "directory" => {
                let dest = self.machine_path("directory", "directory = \"/var/lib/app\"");
                let mode = self.mode();
                let owner = self.account("owner", "owner = \"www-data\"");
                let group = self.account("group", "group = \"www-data\"");
                Some(Action::Directory {
                    dest: dest?,
                    mode,
                    owner,
                    group,
                })
            }
            "link" => {
                let dest = self.machine_path("link", "link = \"/opt/app/current\"");
                let target = self.value("target", |reader, value| {
                    reader.string("target", value, "target = \"/opt/app/1.2\"")
                });
                let Some(value) = self.table.get("target") else {
                    let message = format!("{} does not say what the link says: add target = \"...\"", self.label);
                    self.reader.fault(&self.at, "target", message);
                    return None;
                };
                let target = target?;
                if target.is_empty() || target.contains('\0') || target.len() > PATH_BYTES_MAX {
                    let message = "target is a path, absolute or as seen from the link".to_owned();
                    self.reader.fault(&value.span(), "target", message);
                }
                Some(Action::Link { dest: dest?, target })
            }
            "service" => self.service(),
            "user" => self.user(),
            "ansible" => {
                let source = self.file("ansible", "ansible = \"site.yml\"");
                let args = self.value("args", |reader, value| {
                    reader.strings("args", value, "args = [\"--tags\", \"web\"]")
                });
                let env = self.env();
                Some(Action::Ansible {
                    source: source?,
                    args: args.unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
                    env,
                })
            }
            "cloud-init" => self.cloud_init(),
            "archive" => {
                let source = self.file("archive", "archive = \"app.tar.gz\"");
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

    fn service(&mut self) -> Option<Action> {
        let name = self.name("service", "service = \"nginx\"", |c| {
            matches!(c, ':' | '-' | '_' | '.' | '\\' | '@')
        });
        let state = self.value("state", |reader, value| {
            let text = reader.string("state", value, "state = \"started\"")?;
            let state = match text.as_str() {
                "started" => ServiceState::Started,
                "stopped" => ServiceState::Stopped,
                "restarted" => ServiceState::Restarted,
                "reloaded" => ServiceState::Reloaded,
                _ => {
                    let message = format!("state cannot be {text:?}, but {}", SERVICE_STATES.join(", "));
                    reader.fault_with(&value.span(), "state", message, nearest(&text, SERVICE_STATES));
                    return None;
                }
            };
            Some(state)
        });
        let enabled = self.flag("enabled");
        if !self.table.contains_key("state") && !self.table.contains_key("enabled") {
            let message = format!(
                "{} does not say what is to be with the service: add state = \"started\" or enabled = true",
                self.label
            );
            self.reader.fault(&self.at, "state", message);
        }
        let mut name = name?;
        if !name.contains('.') {
            name.push_str(".service");
        }
        Some(Action::Service { name, state, enabled })
    }

    fn user(&mut self) -> Option<Action> {
        let name = self.account("user", "user = \"app\"");
        let uid = self.value("uid", |reader, value| {
            reader.number("uid", value, u64::from(u32::MAX) - 1)
        });
        let groups = self.value("groups", |reader, value| {
            reader.strings("groups", value, "groups = [\"adm\"]")
        });
        let mut good_groups = Vec::new();
        for (group, span) in groups.unwrap_or_default() {
            if is_account(&group) {
                good_groups.push(group);
            } else {
                self.reader
                    .fault(&span, "groups", format!("{group:?} is no name of a group"));
            }
        }
        let home = self.machine_path("home", "home = \"/var/lib/app\"");
        let shell = self.machine_path("shell", "shell = \"/bin/bash\"");
        let keys = self.value("ssh_keys", |reader, value| {
            reader.strings("ssh_keys", value, "ssh_keys = [\"ssh-ed25519 AAAA... name\"]")
        });
        let mut ssh_keys = Vec::new();
        for (key, span) in keys.unwrap_or_default() {
            if key.split_whitespace().count() < 2 || key.contains(['\n', '\r', '\0']) {
                let message = "a key is one line of authorized_keys, such as \"ssh-ed25519 AAAA... name\"";
                self.reader.fault(&span, "ssh_keys", message.to_owned());
            }
            ssh_keys.push(key.trim().to_owned());
        }
        let system = self.flag("system").unwrap_or(false);
        Some(Action::User {
            name: name?,
            uid: uid.map(|uid| uid as u32),
            groups: good_groups,
            home,
            shell,
            ssh_keys,
            system,
        })
    }

    fn cloud_init(&mut self) -> Option<Action> {
        let source = self.file("cloud-init", "cloud-init = \"user-data.yaml\"");
        let modules = if self.table.contains_key("modules") {
            let words = self.value("modules", |reader, value| {
                let words = reader.strings("modules", value, "modules = [\"write_files\", \"runcmd\"]")?;
                if words.is_empty() {
                    reader.mistyped("modules", value, "modules = [\"write_files\", \"runcmd\"]");
                }
                Some(words)
            });
            for (word, span) in words.iter().flatten() {
                if !is_word(word, |c| matches!(c, '-' | '_')) {
                    self.reader
                        .fault(span, "modules", format!("{word:?} is no name of a module"));
                }
            }
            words.unwrap_or_default().into_iter().map(|(word, _)| word).collect()
        } else {
            let text = self.tree.text(source.as_deref()?)?;
            match cloud_config::modules(&text) {
                Ok(modules) => modules,
                Err(message) => {
                    let span = self.table["cloud-init"].span();
                    self.reader.fault(&span, "cloud-init", message);
                    return None;
                }
            }
        };
        Some(Action::CloudInit {
            source: source?,
            modules,
        })
    }

    fn check_template(&mut self, source: &str) {
        let span = self.table["template"].span();
        let Some(text) = self.tree.text(source) else {
            let message = format!(
                "{source:?} is no template: those are text of at most {}",
                print_size(template::TEMPLATE_BYTES_MAX as u64)
            );
            self.reader.fault(&span, "template", message);
            return;
        };
        if let Err(fault) = template::check(&text) {
            self.reader.fault_in(source, fault.line, fault.message);
        }
    }

    /// A name of a user or group.
    fn account(&mut self, key: &str, example: &str) -> Option<String> {
        self.name(key, example, |c| matches!(c, '-' | '_' | '.' | '$'))
    }

    /// A name of letters, digits, and some others.
    fn name(&mut self, key: &str, example: &str, others: impl Fn(char) -> bool) -> Option<String> {
        let value = self.table.get(key)?;
        let text = self.reader.string(key, value, example)?;
        if is_word(&text, others) {
            return Some(text);
        }
        let message = format!("{text:?} is no name here: write for example {example}");
        self.reader.fault(&value.span(), key, message);
        None
    }

    fn machine_path(&mut self, key: &str, example: &str) -> Option<String> {
        let value = self.table.get(key)?;
        let text = self.reader.string(key, value, example)?;
        self.absolute(key, &text, &value.span())
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        self.value(key, |reader, value| reader.boolean(key, value))
    }

    /// The path of a file of the directory.
    fn file(&mut self, key: &str, example: &str) -> Option<String> {
        self.source(key, example, |kind| matches!(kind, TreeKind::File { .. }))
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
                let suggestion = nearest(path, self.tree.entries.iter().map(|entry| entry.path.as_str()));
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
            let means = match text.as_str() {
                "changed" => Some(ExitOutcome::Changed),
                "unchanged" => Some(ExitOutcome::Unchanged),
                "failed" => Some(ExitOutcome::Failed),
                _ => None,
            };
            match means {
                Some(means) if exit.insert(number, means).is_none() => {}
                Some(_) => self
                    .reader
                    .fault(&key.span(), "exit", format!("exit code {number} is there twice")),
                None => {
                    let message = format!("exit code {number} cannot mean {text:?}, but {}", MEANINGS.join(", "));
                    self.reader
                        .fault_with(&value.span(), "exit", message, nearest(&text, MEANINGS));
                }
            }
        }
        exit.into_iter()
            .map(|(code, means)| ExitMeaning { code, means })
            .collect()
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
}

fn is_account(name: &str) -> bool {
    is_word(name, |c| matches!(c, '-' | '_' | '.' | '$'))
}

/// A name that no tool takes for an option.
fn is_word(name: &str, others: impl Fn(char) -> bool) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || others(c))
}
