//! The rules of the list's format.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Action, ENTRIES_MAX, Entry, EnvVar, HEALTH_CHECKS_MAX, HEALTH_SECONDS_MAX, HealthCheck, INCLUDED_MAX, List,
    PATH_BYTES_MAX, RETRIES_MAX, RETRY_DELAY_SECONDS_MAX, STEPS_MAX, Settings, Step, VARS_BYTES_MAX, format_of,
};
use crate::StepId;
use crate::chunk_list::SINGLE_CHUNK_BYTES_MAX;
use crate::condition::Condition;

pub(super) fn list(list: &List) -> Result<(), String> {
    if list.release == 0 {
        return Err("release numbers begin with 1".into());
    }
    if list.entries.len() > ENTRIES_MAX || list.steps.len() > STEPS_MAX {
        return Err(format!("more than {ENTRIES_MAX} entries or {STEPS_MAX} steps"));
    }
    if list.format < format_of(&list.steps, &list.settings) {
        return Err(format!("format {} cannot say what is in it", list.format));
    }
    settings(&list.settings)?;
    includes(&list.settings)?;
    health(list)?;
    entries(list)?;
    let mut before = BTreeSet::new();
    for step in &list.steps {
        if let Some(need) = step.needs.iter().find(|need| !before.contains(*need)) {
            return Err(format!("step {} needs {need}, which does not stand before it", step.id));
        }
        if !before.insert(step.id.clone()) {
            return Err(format!("two steps are called {}", step.id));
        }
        if step.timeout_seconds == 0 {
            return Err(format!("step {} has no time", step.id));
        }
        if let Some(creates) = &step.creates {
            absolute(creates)?;
        }
        if step.unless.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!("step {} has an empty guard", step.id));
        }
        if step.undo.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!("step {} has an empty undo", step.id));
        }
        if let Some(when) = &step.when {
            Condition::parse(when).map_err(|fault| format!("the condition of step {}: {fault}", step.id))?;
        }
        if let Some(retry) = step.retry
            && (!(1..=RETRIES_MAX).contains(&retry.times) || retry.delay_seconds > RETRY_DELAY_SECONDS_MAX)
        {
            return Err(format!("step {} is tried again too often or too late", step.id));
        }
        if let Some(limits) = step.limits
            && (limits.memory_bytes == Some(0) || limits.cpu_percent == Some(0))
        {
            return Err(format!("step {} may take nothing", step.id));
        }
        action(list, &step.action)?;
    }
    notifications(&list.steps)
}

fn includes(settings: &Settings) -> Result<(), String> {
    let includes = &settings.includes;
    if includes.len() > INCLUDED_MAX {
        return Err(format!("more than {INCLUDED_MAX} releases are part of it"));
    }
    if !includes.is_sorted_by(|one, two| one < two) {
        return Err("the releases that are part of it are not sorted, or one is there twice".into());
    }
    Ok(())
}

/// What is notified stands behind whoever notifies it, and behind all that nobody notifies.
fn notifications(steps: &[Step]) -> Result<(), String> {
    let places: BTreeMap<&StepId, usize> = steps.iter().enumerate().map(|(at, step)| (&step.id, at)).collect();
    let mut handlers = BTreeSet::new();
    for (at, step) in steps.iter().enumerate() {
        for handler in &step.notify {
            match places.get(handler) {
                Some(place) if *place > at => handlers.insert(handler),
                _ => {
                    return Err(format!(
                        "step {} notifies {handler}, which does not stand behind it",
                        step.id
                    ));
                }
            };
        }
    }
    let first = steps.iter().position(|step| handlers.contains(&step.id));
    if steps[first.unwrap_or(steps.len())..]
        .iter()
        .any(|step| !handlers.contains(&step.id))
    {
        return Err("a step that no other notifies stands behind one that is notified".into());
    }
    Ok(())
}

fn settings(settings: &Settings) -> Result<(), String> {
    fn plain(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_i64(),
            Value::Array(items) => items.iter().all(plain),
            Value::Object(items) => items.values().all(plain),
            Value::String(_) | Value::Bool(_) => true,
            Value::Null => false,
        }
    }
    if let Some(name) = settings
        .vars
        .iter()
        .find_map(|(name, value)| (!plain(value)).then_some(name))
    {
        return Err(format!("variable {name:?} holds a fraction, or nothing"));
    }
    let bytes = crate::canonical::to_bytes(&settings.vars).len();
    if bytes > VARS_BYTES_MAX {
        return Err(format!("its variables have {bytes} bytes, more than {VARS_BYTES_MAX}"));
    }
    Ok(())
}

fn health(list: &List) -> Result<(), String> {
    let checks = &list.settings.health;
    if checks.len() > HEALTH_CHECKS_MAX {
        return Err(format!("more than {HEALTH_CHECKS_MAX} health checks"));
    }
    for (index, check) in checks.iter().enumerate() {
        if check.run.is_empty() {
            return Err("an empty health check".into());
        }
        if check.within_seconds.max(check.stable_for_seconds) > HEALTH_SECONDS_MAX {
            return Err(format!("a health check of more than {HEALTH_SECONDS_MAX} s"));
        }
        let id = HealthCheck::id(index + 1);
        if list.steps.iter().any(|step| step.id == id) {
            return Err(format!("a step is called {id}, like a health check"));
        }
    }
    Ok(())
}

fn entries(list: &List) -> Result<(), String> {
    for pair in list.entries.windows(2) {
        if pair[0].path().as_bytes() >= pair[1].path().as_bytes() {
            return Err(format!("{:?} is out of order or there twice", pair[1].path()));
        }
    }
    for entry in &list.entries {
        relative(entry.path())?;
        if let Some((parent, _)) = entry.path().rsplit_once('/')
            && !matches!(list.entry(parent), Some(Entry::Directory { .. }))
        {
            return Err(format!("{:?} is not in a directory of the list", entry.path()));
        }
        match entry {
            Entry::Directory { mode, path } | Entry::File { mode, path, .. } if *mode > 0o777 => {
                return Err(format!("{path:?} has mode {mode:o}, beyond 777"));
            }
            Entry::File {
                size,
                chunks: None,
                path,
                ..
            } if *size > SINGLE_CHUNK_BYTES_MAX => {
                return Err(format!("{path:?} has {size} bytes and no chunk list"));
            }
            Entry::File {
                size,
                chunks: Some(_),
                path,
                ..
            } if *size <= SINGLE_CHUNK_BYTES_MAX => {
                return Err(format!("{path:?} has only {size} bytes and a chunk list"));
            }
            Entry::Link { path, target } => link(path, target)?,
            _ => {}
        }
    }
    Ok(())
}

fn action(list: &List, action: &Action) -> Result<(), String> {
    let known = |source: &String| {
        list.entry(source)
            .map(|_| ())
            .ok_or_else(|| format!("a step uses {source:?}, which is no entry"))
    };
    let file = |source: &String| match list.entry(source) {
        Some(Entry::File { .. }) => Ok(()),
        _ => Err(format!("a step uses {source:?}, which is no file of the list")),
    };
    match action {
        Action::Run {
            source,
            inputs,
            env: variables,
            user,
            ..
        } => {
            env(variables)?;
            user.iter().try_for_each(|user| account(user))?;
            inputs.iter().try_for_each(known)?;
            file(source)
        }
        Action::File { source, dest, mode, .. } => {
            permissions(dest, *mode)?;
            absolute(dest)?;
            known(source)
        }
        Action::Template { source, dest, mode, .. } => {
            permissions(dest, *mode)?;
            absolute(dest)?;
            file(source)
        }
        Action::Directory {
            dest,
            mode,
            owner,
            group,
        } => {
            permissions(dest, *mode)?;
            owner.iter().chain(group).try_for_each(|name| account(name))?;
            absolute(dest)
        }
        Action::Link { dest, target } => {
            absolute(dest)?;
            if target.is_empty() || target.contains('\0') || target.len() > PATH_BYTES_MAX {
                return Err(format!("the link {dest:?} leads nowhere"));
            }
            Ok(())
        }
        Action::Service { name, .. } => word("unit", name, |c| matches!(c, ':' | '-' | '_' | '.' | '\\' | '@')),
        Action::User {
            name,
            groups,
            home,
            shell,
            ssh_keys,
            ..
        } => {
            account(name)?;
            groups.iter().try_for_each(|group| account(group))?;
            home.iter().chain(shell).try_for_each(|path| absolute(path))?;
            let line = |key: &&String| key.trim().is_empty() || key.contains(['\n', '\r', '\0']);
            match ssh_keys.iter().find(line) {
                Some(key) => Err(format!("{key:?} is no line of authorized_keys")),
                None => Ok(()),
            }
        }
        Action::Ansible {
            source, env: variables, ..
        } => {
            env(variables)?;
            file(source)
        }
        Action::CloudInit { source, modules } => {
            if modules.is_empty() {
                return Err("a cloud-init step without modules".into());
            }
            modules
                .iter()
                .try_for_each(|module| word("module", module, |c| matches!(c, '-' | '_')))?;
            file(source)
        }
        Action::Archive { source, dest } => {
            absolute(dest)?;
            file(source)
        }
        Action::Package { sources } if sources.is_empty() => Err("a package step without packages".into()),
        Action::Package { sources } => sources.iter().try_for_each(file),
    }
}

fn env(variables: &[EnvVar]) -> Result<(), String> {
    match variables
        .iter()
        .find(|var| var.name.is_empty() || var.name.contains(['=', '\0']))
    {
        Some(bad) => Err(format!("{:?} is no name of an environment variable", bad.name)),
        None => Ok(()),
    }
}

fn permissions(dest: &str, mode: Option<u32>) -> Result<(), String> {
    if mode.is_some_and(|mode| mode > 0o7777) {
        return Err(format!("mode of {dest:?}"));
    }
    Ok(())
}

/// The name of a user or group: what shadow's tools take.
fn account(name: &str) -> Result<(), String> {
    word("user or group", name, |c| matches!(c, '-' | '_' | '.' | '$'))
}

/// A name that no tool takes for an option.
fn word(what: &str, name: &str, others: impl Fn(char) -> bool) -> Result<(), String> {
    let good = (1..=255).contains(&name.len())
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || others(c));
    if good {
        Ok(())
    } else {
        Err(format!(
            "{:?} is no name of a {what}",
            name.chars().take(80).collect::<String>()
        ))
    }
}

fn names(path: &str) -> Result<(), String> {
    let good = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains('\0');
    if path.len() <= PATH_BYTES_MAX && path.split('/').all(good) {
        Ok(())
    } else {
        Err(format!(
            "{:?} is no clean path",
            path.chars().take(200).collect::<String>()
        ))
    }
}

fn relative(path: &str) -> Result<(), String> {
    names(path)
}

fn absolute(path: &str) -> Result<(), String> {
    match path.strip_prefix('/') {
        Some("") => Ok(()),
        Some(rest) => names(rest),
        None => Err(format!("{path:?} is not absolute")),
    }
}

/// A link's target, followed from where the link is, must stay in the directory.
fn link(path: &str, target: &str) -> Result<(), String> {
    let mut depth = path.matches('/').count();
    let leaves = || format!("the link {path:?} leads out of the directory, to {target:?}");
    if target.is_empty() || target.starts_with('/') || target.contains('\0') || target.len() > PATH_BYTES_MAX {
        return Err(leaves());
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or_else(leaves)?,
            _ => depth += 1,
        }
    }
    Ok(())
}
