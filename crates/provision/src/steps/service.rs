//! `service`: sees to a unit of systemd, through `systemctl`.

use std::process::Command;

use potluck_model::list::{ServiceState, Step};
use potluck_model::trace::Outcome;

use super::Kind;
use crate::command::Exit;
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::plan::Seen;

pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    pub(crate) state: Option<ServiceState>,
    pub(crate) enabled: Option<bool>,
}

impl Kind for Service<'_> {
    fn concerns_machine(&self) -> Option<&'static str> {
        Some("services")
    }

    fn plan(&self, engine: &mut Engine<'_>, _: &Step) -> Result<Seen, Fault> {
        let said: Vec<String> = self.todo(engine)?.iter().map(|todo| todo.said.to_owned()).collect();
        Ok(Seen::of_changes(&said))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        // A file of a unit may have been placed by a step before this one.
        if property(engine, self.name, "NeedDaemonReload")? == "yes" {
            systemctl(engine, step, &["daemon-reload"])?;
        }
        let mut said = Vec::new();
        for todo in self.todo(engine)? {
            systemctl(engine, step, &[todo.verb, self.name])?;
            said.push(todo.said);
        }
        let outcome = if said.is_empty() {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        };
        Ok(Done::new(outcome, said.join("; ")))
    }
}

/// Something that is to be done with a unit.
struct Todo {
    verb: &'static str,
    said: &'static str,
}

impl Service<'_> {
    /// What makes the unit as it should be, in order.
    fn todo(&self, engine: &mut Engine<'_>) -> Result<Vec<Todo>, Fault> {
        let name = self.name;
        match property(engine, name, "LoadState")?.as_str() {
            "loaded" => {}
            "not-found" => {
                return Err(failed(format!(
                    "there is no unit {name}: place it, or install its package, in a step before this"
                )));
            }
            "masked" => return Err(failed(format!("{name} is masked: systemctl unmask {name}"))),
            other => return Err(failed(format!("{name} cannot be used: systemd says {}", clip(other)))),
        }
        let mut todo = Vec::new();
        let mut push = |verb, said| todo.push(Todo { verb, said });
        if let Some(enabled) = self.enabled {
            let state = property(engine, name, "UnitFileState")?;
            // Units without an [Install] section are neither, and start when others want them.
            let is = matches!(
                state.as_str(),
                "enabled" | "alias" | "static" | "indirect" | "generated"
            );
            let is_not = !matches!(state.as_str(), "enabled" | "enabled-runtime" | "alias");
            if enabled && !is {
                push("enable", "enabled it");
            } else if !enabled && !is_not {
                push("disable", "disabled it");
            }
        }
        let active = property(engine, name, "ActiveState")?;
        let runs = matches!(active.as_str(), "active" | "reloading" | "activating");
        match self.state {
            Some(ServiceState::Started) if !runs => push("start", "started it"),
            Some(ServiceState::Stopped) if !matches!(active.as_str(), "inactive" | "failed") => {
                push("stop", "stopped it");
            }
            Some(ServiceState::Restarted) => push("restart", "restarted it"),
            Some(ServiceState::Reloaded) => push("reload-or-restart", "reloaded it"),
            _ => {}
        }
        Ok(todo)
    }
}

fn command(engine: &Engine<'_>, args: &[&str]) -> Command {
    let mut command = engine.tool("systemctl");
    command.args(args).env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    command
}

fn property(engine: &mut Engine<'_>, name: &str, property: &str) -> Result<String, Fault> {
    let property = format!("--property={property}");
    let command = command(engine, &["show", "--value", &property, "--", name]);
    let ended = engine.question(command)?;
    match ended.exit {
        Exit::Code(0) => Ok(ended.last_line.trim().to_owned()),
        _ => Err(failed(format!(
            "unsupported: systemd does not answer about {name}: {}",
            clip(&ended.last_line)
        ))),
    }
}

fn systemctl(engine: &mut Engine<'_>, step: &Step, args: &[&str]) -> Result<(), Fault> {
    let command = command(engine, args);
    let ended = engine.execute(step, command, true)?;
    ended.ok(&format!("systemctl {}", args.join(" ")))
}
