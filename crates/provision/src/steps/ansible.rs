//! `ansible`: runs a playbook on this machine with the `ansible-playbook` that is installed. What it changed, its recap says.

use potluck_model::canonical;
use potluck_model::list::{Entry, EnvVar, Step};
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;

use super::{Kind, run};
use crate::command::Exit;
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::plan::Seen;
use crate::private;

pub(crate) struct Playbook<'a> {
    pub(crate) source: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [EnvVar],
}

impl Kind for Playbook<'_> {
    fn concerns_machine(&self) -> Option<&'static str> {
        Some("playbooks")
    }

    fn plan(&self, engine: &mut Engine<'_>, _: &Step) -> Result<Seen, Fault> {
        run::has_program(engine, "ansible-playbook")?;
        Ok(Seen::new(
            Forecast::Run,
            format!("it would run the playbook {}", self.source),
        ))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        let setting = engine.setting;
        let entry = setting
            .list
            .entry(self.source)
            .filter(|entry| matches!(entry, Entry::File { .. }))
            .ok_or_else(|| failed(format!("{} is not a file of the list", self.source)))?;
        let playbook = private::file(engine, entry)?;
        let mut command = engine.tool("ansible-playbook");
        command
            .args(["--inventory", "localhost,", "--connection", "local"])
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
            .env("PYTHONUNBUFFERED", "1");
        let vars = &setting.list.settings.vars;
        if !vars.is_empty() {
            let json = canonical::to_bytes(vars);
            command.arg("--extra-vars").arg(String::from_utf8_lossy(&json).as_ref());
        }
        for variable in self.env {
            command.env(&variable.name, &variable.value);
        }
        command
            .args(self.args)
            .arg(playbook)
            .current_dir(private::of(engine)?.path());
        let mut recap = None;
        let ended = engine.execute_seeing(step, command, true, &mut |line| {
            if let Some(found) = parse(line) {
                recap = Some(found);
            }
        })?;
        match (ended.exit, recap) {
            (Exit::Code(0), Some(recap)) => Ok(Done {
                exit: Some(0),
                ..Done::new(
                    if recap.changed > 0 {
                        Outcome::Changed
                    } else {
                        Outcome::Unchanged
                    },
                    format!("{} tasks well, {} changed something", recap.ok, recap.changed),
                )
            }),
            (Exit::Code(0), None) => Err(failed(
                "it did nothing: its plays are for other hosts than localhost (write hosts: all)",
            )),
            (Exit::Code(code), recap) => {
                let tasks = recap.map_or_else(String::new, |recap| format!("; {} tasks failed", recap.failed));
                Ok(Done {
                    exit: Some(code),
                    ..Done::new(
                        Outcome::Failed,
                        format!(
                            "ansible-playbook ended with exit code {code}{tasks}: {}",
                            clip(&ended.last_line)
                        ),
                    )
                })
            }
            (_, _) => Err(ended
                .ok("ansible-playbook")
                .err()
                .unwrap_or_else(|| failed("it was ended"))),
        }
    }
}

/// What a playbook did here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Recap {
    ok: u64,
    changed: u64,
    failed: u64,
}

/// A line such as `localhost : ok=3 changed=1 unreachable=0 failed=0 skipped=0 rescued=0 ignored=0`.
fn parse(line: &str) -> Option<Recap> {
    let (host, counts) = line.split_once(" : ")?;
    if host.trim() != "localhost" || !counts.trim_start().starts_with("ok=") {
        return None;
    }
    let count = |name: &str| {
        counts
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse::<u64>().ok())
    };
    Some(Recap {
        ok: count("ok")?,
        changed: count("changed")?,
        failed: count("failed")? + count("unreachable")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recap_of_the_machine_itself_counts() {
        let line =
            "localhost                  : ok=3    changed=1    unreachable=0    failed=2    skipped=0    rescued=0";
        assert_eq!(
            parse(line),
            Some(Recap {
                ok: 3,
                changed: 1,
                failed: 2
            })
        );
        assert_eq!(parse("web-3 : ok=3 changed=1 unreachable=0 failed=0"), None);
        assert_eq!(parse("ok: [localhost] : ok=maybe"), None);
    }
}
