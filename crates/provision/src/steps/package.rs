//! `package`: installs what this machine's package manager takes, unless exactly that is installed.

use std::path::Path;
use std::process::Command;

use potluck_model::StepId;
use potluck_model::list::{Entry, Step};
use potluck_model::trace::Outcome;

use crate::command::Exit;
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::machine::PackageManager;

pub(crate) fn run(engine: &mut Engine<'_>, step: &Step, sources: &[String]) -> Result<Done, Fault> {
    let setting = engine.setting;
    if !setting.root.is_machine() {
        return Err(failed(format!(
            "unsupported: packages concern the whole machine, and the root is {}",
            setting.root.path().display()
        )));
    }
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
    let result = install(engine, &step.id, manager, &copy, step.timeout_seconds);
    engine.remove_own_copy();
    result
}

fn install(
    engine: &mut Engine<'_>,
    step: &StepId,
    manager: PackageManager,
    package: &Path,
    timeout_seconds: u64,
) -> Result<Done, Fault> {
    let search = &engine.setting.search;
    let new = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", search)
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir("/");
        command
    };
    let mut inspect = match manager {
        PackageManager::Dpkg => new(
            "dpkg-deb",
            &["--show", "--showformat=${Package} ${Version} ${Architecture}\n"],
        ),
        PackageManager::Rpm => new(
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
            let query = new(
                "dpkg-query",
                &["--show", format, if architecture == "all" { name } else { &qualified }],
            );
            ask(engine, query)?.as_deref() == Some(format!("installed {version} {architecture}").as_str())
        }
        PackageManager::Rpm => ask(engine, new("rpm", &["-q", &identity]))?.is_some(),
    };
    let readable = identity.split(' ').take(2).collect::<Vec<_>>().join(" ");
    if installed {
        return Ok(Done::new(Outcome::Unchanged, format!("{readable} is installed")));
    }
    let mut command = match manager {
        // Where both the package and the administrator changed a configuration file, the administrator's stays.
        PackageManager::Dpkg => new("dpkg", &["--force-confdef", "--force-confold", "-i"]),
        // A release may also go back to an older package.
        PackageManager::Rpm => new("rpm", &["-U", "--replacepkgs", "--oldpackage"]),
    };
    command.arg(package);
    let ended = engine.execute(step, command, true)?;
    let said = clip(&ended.last_line);
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
