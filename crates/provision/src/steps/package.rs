//! `package`: installs what this machine's package manager takes, unless exactly that is installed.

use std::path::Path;
use std::process::Command;

use potluck_model::list::{Entry, Step};
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;

use super::Kind;
use crate::command::Exit;
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::machine::PackageManager;
use crate::plan::Seen;

mod busy;

pub(crate) struct Install<'a> {
    pub(crate) sources: &'a [String],
}

impl Kind for Install<'_> {
    fn concerns_machine(&self) -> Option<&'static str> {
        Some("packages")
    }

    fn plan(&self, engine: &mut Engine<'_>, _: &Step) -> Result<Seen, Fault> {
        with_copy(engine, self.sources, |engine, manager, package| {
            let (readable, installed) = inspect(engine, manager, package)?;
            Ok(if installed {
                Seen::new(Forecast::Unchanged, format!("{readable} is installed"))
            } else {
                Seen::new(Forecast::Change, format!("installed {readable}"))
            })
        })
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        with_copy(engine, self.sources, |engine, manager, package| {
            install(engine, step, manager, package)
        })
    }
}

/// Does something with a copy of the package that this machine takes.
fn with_copy<T>(
    engine: &mut Engine<'_>,
    sources: &[String],
    with: impl FnOnce(&mut Engine<'_>, PackageManager, &Path) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let setting = engine.setting;
    let Some(manager) = setting.machine.packages else {
        return Err(failed("unsupported: this machine has neither dpkg nor rpm"));
    };
    let Some(source) = manager.choose(sources) else {
        return Err(failed(format!(
            "unsupported: this machine takes .{} packages, and the step has none: {}",
            manager.extension(),
            clip(&sources.join(", "))
        )));
    };
    let Some(Entry::File { digest, size, .. }) = setting.list.entry(source) else {
        return Err(failed(format!("{source} is not a file of the list")));
    };
    let name = format!("package.{}", manager.extension());
    let copy = engine.own_copy(&name, *digest, *size).map_err(|fault| match fault {
        Fault::Failed(why) => failed(format!("{source}: {why}")),
        journal @ Fault::Journal(_) => journal,
    })?;
    let result = with(engine, manager, &copy);
    engine.remove_own_copy();
    result
}

fn tool(engine: &Engine<'_>, program: &str, args: &[&str]) -> Command {
    let mut command = engine.tool(program);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Name and version of a package, and whether exactly that is installed.
fn inspect(engine: &mut Engine<'_>, manager: PackageManager, package: &Path) -> Result<(String, bool), Fault> {
    let mut inspect = match manager {
        PackageManager::Dpkg => tool(
            engine,
            "dpkg-deb",
            &["--show", "--showformat=${Package} ${Version} ${Architecture}\n"],
        ),
        PackageManager::Rpm => tool(
            engine,
            "rpm",
            &[
                "-qp",
                "--nosignature",
                "--qf",
                "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}\n",
            ],
        ),
    };
    inspect.arg(package);
    let Some(identity) = ask(engine, inspect)? else {
        return Err(failed("it is not a package that can be read"));
    };
    let installed = match manager {
        PackageManager::Dpkg => {
            let [name, version, architecture] = identity.split(' ').collect::<Vec<_>>()[..] else {
                return Err(failed(format!(
                    "its name and version cannot be read: {}",
                    clip(&identity)
                )));
            };
            let format = "--showformat=${db:Status-Status} ${Version} ${Architecture}\n";
            // Of foreign architectures there may be several of a name; of `all` there is one without.
            let qualified = format!("{name}:{architecture}");
            let query = tool(
                engine,
                "dpkg-query",
                &["--show", format, if architecture == "all" { name } else { &qualified }],
            );
            ask(engine, query)?.as_deref() == Some(format!("installed {version} {architecture}").as_str())
        }
        PackageManager::Rpm => ask(engine, tool(engine, "rpm", &["-q", &identity]))?.is_some(),
    };
    let readable = identity.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok((readable, installed))
}

fn install(engine: &mut Engine<'_>, step: &Step, manager: PackageManager, package: &Path) -> Result<Done, Fault> {
    let (readable, installed) = inspect(engine, manager, package)?;
    if installed {
        return Ok(Done::new(Outcome::Unchanged, format!("{readable} is installed")));
    }
    let mut command = match manager {
        // Where both the package and the administrator changed a configuration file, the administrator's stays.
        PackageManager::Dpkg => tool(engine, "dpkg", &["--force-confdef", "--force-confold", "-i"]),
        // A release may also go back to an older package.
        PackageManager::Rpm => tool(engine, "rpm", &["-U", "--replacepkgs", "--oldpackage"]),
    };
    command.arg(package);
    if manager == PackageManager::Dpkg {
        busy::wait(engine, step)?;
    }
    let ended = engine.execute(step, command, true)?;
    let said = clip(&ended.last_line);
    let timeout_seconds = step.timeout_seconds;
    match ended.exit {
        Exit::Code(0) => Ok(Done {
            exit: Some(0),
            ..Done::new(Outcome::Changed, format!("installed {readable}"))
        }),
        Exit::Code(code) => Ok(Done {
            exit: Some(code),
            ..Done::new(
                Outcome::Failed,
                format!("installing {readable} ended with exit code {code}: {said}"),
            )
        }),
        Exit::Signal(signal) => Err(failed(format!(
            "installing {readable} was ended by {}",
            crate::command::signal_name(signal)
        ))),
        Exit::TimedOut => Err(failed(format!(
            "installing {readable} did not end within {timeout_seconds} s, and was ended"
        ))),
    }
}

/// The last line that a question's command prints; `None` if it says no.
fn ask(engine: &mut Engine<'_>, command: Command) -> Result<Option<String>, Fault> {
    let ended = engine.question(command)?;
    Ok((ended.exit == Exit::Code(0)).then_some(ended.last_line))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicBool;

    use potluck_model::list::{Action, List};
    use potluck_model::trace::Outcome;

    use crate::common::{Node, Report};
    use crate::machine::{Machine, PackageManager};
    use crate::process;

    /// Stand-ins for the package managers' programs: a package's bytes are its identity, and one file is their database.
    fn programs(node: &Node) -> OsString {
        let dir = node.temp.path().join("programs");
        fs::create_dir(&dir).unwrap();
        let database = node.temp.path().join("database");
        let database = database.display();
        for (name, script) in [
            ("dpkg-deb", "cat \"$3\"".to_owned()),
            ("dpkg-query", format!("echo \"$3\" > {database}.asked; cat {database}")),
            (
                "dpkg",
                format!(
                    "grep -q broken \"$4\" && {{ echo no way; exit 3; }}\necho $*; sed 's/^[^ ]*/installed/' \"$4\" > {database}"
                ),
            ),
            (
                "rpm",
                format!(
                    "case $1 in -qp) cat \"$5\";; -q) grep -qx \"$2\" {database};; -U) cp \"$4\" {database};; esac"
                ),
            ),
        ] {
            let path = dir.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut search = dir.into_os_string();
        search.push(":/usr/bin:/bin");
        search
    }

    fn list(node: &Node, number: u64, deb: &str, rpm: &str) -> List {
        node.release(number)
            .file("app.deb", 0o644, deb)
            .file("app.rpm", 0o644, rpm)
            .step(
                "app",
                Action::Package {
                    sources: vec!["app.deb".into(), "app.rpm".into()],
                },
            )
            .list()
    }

    fn execute(node: &Node, list: &List, packages: Option<PackageManager>, search: &OsString) -> Report {
        fs::create_dir_all(node.dir()).unwrap();
        let mut job = node.job(list);
        job.machine_root = "/".into();
        process::run(
            &node.dir(),
            &job,
            None,
            &AtomicBool::new(false),
            Machine {
                packages,
                ..Machine::default()
            },
            search.clone(),
        )
        .unwrap();
        node.news()
    }

    #[test]
    fn exactly_what_is_installed_is_not_installed_again() {
        for (manager, installed) in [
            (PackageManager::Dpkg, "installed 1.0 amd64"),
            (PackageManager::Rpm, "app-1.0.x86_64"),
        ] {
            let node = Node::new();
            let search = programs(&node);
            let first = list(&node, 1, "app 1.0 amd64", "app-1.0.x86_64");
            let report = execute(&node, &first, Some(manager), &search);
            assert_eq!(report.outcome("app"), Outcome::Changed, "{}", report.message("app"));
            assert!(report.message("app").starts_with("installed app"));
            let database = fs::read_to_string(node.temp.path().join("database")).unwrap();
            assert_eq!(database.trim(), installed);
            let report = execute(&node, &first, Some(manager), &search);
            assert_eq!(report.outcome("app"), Outcome::Unchanged, "{}", report.message("app"));
            let other = list(&node, 2, "app 2.0 amd64", "app-2.0.x86_64");
            let report = execute(&node, &other, Some(manager), &search);
            assert_eq!(report.outcome("app"), Outcome::Changed, "{}", report.message("app"));
            assert!(!node.dir().join("work").exists());
        }
    }

    #[test]
    fn a_package_for_every_architecture_is_asked_for_without_one() {
        let node = Node::new();
        let search = programs(&node);
        let asked = |number, deb: &str| {
            execute(
                &node,
                &list(&node, number, deb, "x"),
                Some(PackageManager::Dpkg),
                &search,
            );
            fs::read_to_string(node.temp.path().join("database.asked")).unwrap()
        };
        assert_eq!(asked(1, "app 1.0 all"), "app\n");
        assert_eq!(asked(2, "app 1.0 amd64"), "app:amd64\n");
    }

    #[test]
    fn what_the_package_manager_says_is_reported() {
        let node = Node::new();
        let search = programs(&node);
        let list = list(&node, 1, "broken 1.0 amd64", "x");
        let report = execute(&node, &list, Some(PackageManager::Dpkg), &search);
        assert_eq!(report.outcome("app"), Outcome::Failed);
        assert_eq!(report.exit("app"), Some(3));
        assert_eq!(report.output("app"), ["no way"]);
        assert!(report.message("app").contains("no way"));
    }

    #[test]
    fn a_machine_without_a_package_manager_says_so() {
        let node = Node::new();
        let search = programs(&node);
        let report = execute(&node, &list(&node, 1, "a 1 b", "x"), None, &search);
        assert_eq!(report.outcome("app"), Outcome::Failed);
        assert!(report.message("app").contains("neither dpkg nor rpm"));
    }
}
