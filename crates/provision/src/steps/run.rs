//! `run`: a script of the release, in the private directory, with a clean environment. Also the guard `unless`.
//!
//! Not confined: it runs as who runs the agent, or as the user that the step names.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use potluck_model::canonical;
use potluck_model::list::{Action, Entry, EnvVar, ExitMeaning, ExitOutcome, List, Step};
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;
use potluck_model::{ConfigurationName, Digest, StepId};
use serde::Serialize;

use super::Kind;
use crate::accounts;
use crate::command::{Exit, signal_name};
use crate::engine::{Done, Engine, Fault, clip, failed};
use crate::plan::Seen;
use crate::private;
use crate::state::Fact;

/// The most bytes of a line that names an interpreter, as in the kernel.
const INTERPRETER_BYTES_MAX: u64 = 256;

/// What a run-once step is remembered by: its definition and its inputs.
#[derive(Serialize)]
struct Once<'a> {
    configuration: &'a ConfigurationName,
    step: &'a StepId,
    root: &'a Path,
    action: &'a Action,
    inputs: Vec<&'a Entry>,
}

pub(crate) struct Run<'a> {
    pub(crate) source: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [EnvVar],
    pub(crate) exit: &'a [ExitMeaning],
    pub(crate) user: Option<&'a str>,
}

impl Kind for Run<'_> {
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        let setting = engine.setting;
        let script = setting
            .list
            .entry(self.source)
            .ok_or_else(|| failed(format!("{} is not in the list", self.source)))?;
        if let Some(done) = already(engine, once(setting.list, step, setting.root.path())) {
            return Ok(Seen::new(Forecast::Unchanged, done.message));
        }
        if let Some(name) = self.user {
            accounts::existing_user(engine, name)?;
        }
        let command = script_command(engine, script, false)?;
        interpreter(engine, self.source, &command)?;
        Ok(Seen::new(Forecast::Run, format!("it would run {}", self.source)))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        run(engine, step, self)
    }
}

/// How a step that runs once ends if it has done its work already.
pub(crate) fn already(engine: &Engine<'_>, key: Option<Digest>) -> Option<Done> {
    let at = engine.journal.state().ran.get(&key?)?;
    let message = format!(
        "it ran already (at Unix time {}), and neither it nor its inputs changed",
        at.0 / 1_000_000
    );
    Some(Done::new(Outcome::Unchanged, message))
}

fn run(engine: &mut Engine<'_>, step: &Step, own: &Run<'_>) -> Result<Done, Fault> {
    let setting = engine.setting;
    let script = setting
        .list
        .entry(own.source)
        .ok_or_else(|| failed(format!("{} is not in the list", own.source)))?;
    let key = once(setting.list, step, setting.root.path());
    if let Some(done) = already(engine, key) {
        return Ok(done);
    }
    // A step may have asked for a user that a step before it made.
    let account = match own.user {
        Some(name) => Some(accounts::existing_user(engine, name)?),
        None => None,
    };
    let mut command = script_command(engine, script, account.is_some())?;
    command.args(own.args);
    environment(engine, &mut command)?;
    if let (Some(account), Some(name)) = (&account, own.user) {
        command
            .env("HOME", &account.home)
            .env("USER", name)
            .env("LOGNAME", name);
    }
    for variable in own.env {
        command.env(&variable.name, &variable.value);
    }
    if let Some(account) = &account {
        command = accounts::as_user(command, account)?;
    }
    let ended = engine.execute(step, command, true)?;
    let said = if ended.last_line.is_empty() {
        String::new()
    } else {
        format!("; its last line: {}", clip(&ended.last_line))
    };
    let code = match ended.exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => return Err(failed(format!("it was ended by {}{said}", signal_name(signal)))),
        Exit::TimedOut => {
            return Err(failed(format!(
                "it did not end within {} s, and was ended with all its processes{said}",
                step.timeout_seconds
            )));
        }
    };
    let meaning = own.exit.iter().find(|meaning| i32::from(meaning.code) == code);
    let outcome = match (meaning.map(|meaning| meaning.means), code) {
        (Some(ExitOutcome::Changed), _) | (None, 0) => Outcome::Changed,
        (Some(ExitOutcome::Unchanged), _) => Outcome::Unchanged,
        (Some(ExitOutcome::Failed) | None, _) => Outcome::Failed,
    };
    Ok(Done {
        outcome,
        exit: Some(code),
        message: if outcome == Outcome::Failed {
            format!("exit code {code}{said}")
        } else {
            String::new()
        },
        fact: key.filter(|_| outcome != Outcome::Failed).map(Fact::Ran),
    })
}

/// Fails if what is to run `source`, or its interpreter, is not on the machine.
fn interpreter(engine: &Engine<'_>, source: &str, command: &Command) -> Result<(), Fault> {
    let program = Path::new(command.get_program());
    if program == Path::new("sh") {
        return has_program(engine, "sh");
    }
    let mut line = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(INTERPRETER_BYTES_MAX).read_to_end(&mut line));
    read.map_err(|error| failed(format!("cannot read the private copy of {source}: {error}")))?;
    let Some(first) = line.strip_prefix(b"#!") else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(first.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
    let mut words = text.split_whitespace();
    let Some(interpreter) = words.next() else {
        return Ok(());
    };
    if !Path::new(interpreter).exists() {
        return Err(failed(format!(
            "the interpreter {interpreter}, which {source} names, is not installed here: a package step before this one can see to that"
        )));
    }
    let is_env = Path::new(interpreter).file_name().is_some_and(|name| name == "env");
    match words.find(|word| !word.starts_with('-') && !word.contains('=')) {
        Some(name) if is_env => has_program(engine, name),
        _ => Ok(()),
    }
}

/// Fails if there is no such program where steps look for programs.
pub(crate) fn has_program(engine: &Engine<'_>, name: &str) -> Result<(), Fault> {
    if std::env::split_paths(&engine.setting.search).any(|dir| dir.join(name).exists()) {
        return Ok(());
    }
    Err(failed(format!(
        "{name} is not installed here: a package step before this one can see to that"
    )))
}

/// What a step is remembered by that runs once; `None` for any other.
pub(crate) fn once(list: &List, step: &Step, root: &Path) -> Option<Digest> {
    let (source, inputs) = match &step.action {
        Action::Run { source, inputs, .. } => (source, inputs.as_slice()),
        Action::CloudInit { source, .. } => (source, &[][..]),
        _ => return None,
    };
    if step.unless.is_some() || step.creates.is_some() {
        return None;
    }
    let mut all = vec![list.entry(source)?];
    for input in inputs {
        all.extend(list.entries_under(input));
    }
    Some(Digest::of(&canonical::to_bytes(&Once {
        configuration: &list.configuration,
        step: &step.id,
        root,
        action: &step.action,
        inputs: all,
    })))
}

/// The command of a guard or a health check, in the private directory and with the environment of a script.
/// `for_other`: it can be run by another user.
pub(crate) fn guard_command(engine: &mut Engine<'_>, words: &[String], for_other: bool) -> Result<Command, Fault> {
    let (program, args) = words.split_first().ok_or_else(|| failed("the command is empty"))?;
    // `./check.sh` is the release's own; `/bin/test` and `test` are the machine's.
    let own = program
        .strip_prefix("./")
        .or_else(|| (program.contains('/') && !program.starts_with('/')).then_some(program.as_str()));
    let entry = own.and_then(|path| engine.setting.list.entry(path));
    let mut command = match (entry, own) {
        (Some(entry @ Entry::File { .. }), _) => script_command(engine, entry, for_other)?,
        (_, Some(path)) => Command::new(private::of(engine)?.path().join(path)),
        (_, None) => Command::new(program),
    };
    command.args(args);
    environment(engine, &mut command)?;
    Ok(command)
}

/// Whether the guard says that nothing is to be done.
pub(crate) fn guard(engine: &mut Engine<'_>, step: &Step, unless: &[String]) -> Result<bool, Fault> {
    let command = guard_command(engine, unless, false)?;
    let ended = engine.execute(step, command, false).map_err(|fault| match fault {
        Fault::Failed(why) => failed(format!("its guard `{}`: {why}", clip(&unless.join(" ")))),
        journal @ Fault::Journal(_) => journal,
    })?;
    match ended.exit {
        Exit::Code(code) => Ok(code == 0),
        Exit::Signal(signal) => Err(failed(format!("its guard was ended by {}", signal_name(signal)))),
        Exit::TimedOut => Err(failed(format!(
            "its guard did not end within {} s",
            step.timeout_seconds
        ))),
    }
}

/// A script of the release: executed itself if it is executable or begins with `#!`, else by `sh`. For another user it is named
/// as seen from the private directory: what is above that is closed to others.
fn script_command(engine: &mut Engine<'_>, entry: &Entry, for_other: bool) -> Result<Command, Fault> {
    let Entry::File { path, mode, .. } = entry else {
        return Err(failed(format!("{} is not a file", entry.path())));
    };
    let script = private::file(engine, entry)?;
    let named = if for_other {
        Path::new(".").join(path)
    } else {
        script.clone()
    };
    let io = |error| failed(format!("cannot use the private copy of {path}: {error}"));
    if mode & 0o111 == 0 {
        let mut head = [0; 2];
        let read = fs::File::open(&script)
            .and_then(|mut file| file.read(&mut head))
            .map_err(io)?;
        if head[..read] != *b"#!" {
            let mut command = Command::new("sh");
            command.arg(named);
            return Ok(command);
        }
        fs::set_permissions(
            &script,
            fs::Permissions::from_mode(mode | if for_other { 0o555 } else { 0o500 }),
        )
        .map_err(io)?;
    }
    Ok(Command::new(named))
}

/// The standard environment, and nothing of the agent's own.
fn environment(engine: &mut Engine<'_>, command: &mut Command) -> Result<(), Fault> {
    let setting = engine.setting;
    let private = private::of(engine)?;
    let home = if rustix::process::geteuid().is_root() {
        "/root".into()
    } else {
        std::env::var_os("HOME").unwrap_or_else(|| "/".into())
    };
    command
        .current_dir(private.path())
        .env_clear()
        .env("PATH", &setting.search)
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .env("POTLUCK_ROOT", setting.root.path())
        .env("POTLUCK_NODE", setting.node.to_string())
        .env("POTLUCK_CONFIGURATION", setting.list.configuration.as_str())
        .env("POTLUCK_RELEASE", setting.list.release.to_string());
    Ok(())
}
