//! The keys of a step: which there are, and what they take. The reader, its messages and the JSON Schema are made of this.

/// Kinds of steps. A step has exactly one of these keys, and its value is what the step is about.
pub(super) const KINDS: [&str; 11] = [
    "run",
    "file",
    "template",
    "directory",
    "link",
    "archive",
    "package",
    "service",
    "user",
    "ansible",
    "cloud-init",
];

/// What a value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// Any text.
    Text,
    /// A path of the published directory.
    Source,
    /// A path of the machine.
    Absolute,
    /// Permission bits.
    Mode,
    /// A time with its unit.
    Duration,
    /// A whole number of at least zero.
    Number,
    Flag,
    /// An array of text.
    Words,
    /// Text, or an array of text.
    WordOrWords,
    /// An array of at least one text: a command and its arguments.
    Command,
    /// Names with text.
    Variables,
    /// `{ times = 3, delay = "10s" }`
    Retry,
    /// `{ memory = "512MiB", cpu = "50%" }`
    Limits,
    /// Exit codes with one of these meanings.
    Exit(&'static [&'static str]),
    OneOf(&'static [&'static str]),
}

/// A key of a step.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The kinds of steps that take it; none: all.
    pub(super) kinds: &'static [&'static str],
    pub(super) shape: Shape,
    /// For editors.
    pub(super) about: &'static str,
}

const fn common(name: &'static str, shape: Shape, about: &'static str) -> Key {
    of(name, &[], shape, about)
}

const fn of(name: &'static str, kinds: &'static [&'static str], shape: Shape, about: &'static str) -> Key {
    Key {
        name,
        kinds,
        shape,
        about,
    }
}

/// What exit codes can mean.
pub(super) const MEANINGS: [&str; 3] = ["changed", "unchanged", "failed"];
/// What can be with a service.
pub(super) const SERVICE_STATES: [&str; 4] = ["started", "stopped", "restarted", "reloaded"];

pub(super) const ON_FAILURE: [&str; 3] = ["stop", "continue", "undo"];
pub(super) const ON_INTERRUPT: [&str; 2] = ["again", "fail"];

/// All keys, in the order in which messages name them.
pub(super) const KEYS: [Key; 44] = [
    common("id", Shape::Text, "Unique name of the step."),
    common("needs", Shape::Words, "Ids of steps that come before it."),
    common(
        "when",
        Shape::Text,
        "A condition over facts; the step is skipped where it does not hold.",
    ),
    common(
        "unless",
        Shape::Command,
        "A command; if it exits with 0, the step is skipped.",
    ),
    common(
        "undo",
        Shape::Command,
        "A command that takes back what the step has changed.",
    ),
    common("creates", Shape::Absolute, "A path; if it exists, the step is skipped."),
    common(
        "timeout",
        Shape::Duration,
        "How long the step may take; 1h unless it says otherwise.",
    ),
    common(
        "retry",
        Shape::Retry,
        "How often it is tried again if it fails, and how long it waits before that.",
    ),
    common(
        "on_failure",
        Shape::OneOf(&ON_FAILURE),
        "What becomes of the steps behind it if it fails.",
    ),
    common(
        "on_interrupt",
        Shape::OneOf(&ON_INTERRUPT),
        "What becomes of it if the machine goes down meanwhile.",
    ),
    common(
        "notify",
        Shape::Words,
        "Ids of steps that are done at the end, once, if this one changed something.",
    ),
    common("limits", Shape::Limits, "What its commands may take."),
    of("run", &["run"], Shape::Source, "The script to run."),
    of(
        "file",
        &["file"],
        Shape::Source,
        "The file, link or directory to place.",
    ),
    of(
        "template",
        &["template"],
        Shape::Source,
        "The template to render and place.",
    ),
    of("directory", &["directory"], Shape::Absolute, "The directory to make."),
    of("link", &["link"], Shape::Absolute, "The symbolic link to make."),
    of("archive", &["archive"], Shape::Source, "The archive to unpack."),
    of(
        "package",
        &["package"],
        Shape::WordOrWords,
        "The package to install, or alternatives.",
    ),
    of("service", &["service"], Shape::Text, "The systemd unit to see to."),
    of("user", &["user"], Shape::Text, "The user to make."),
    of(
        "ansible",
        &["ansible"],
        Shape::Source,
        "The playbook to run on the machine itself.",
    ),
    of(
        "cloud-init",
        &["cloud-init"],
        Shape::Source,
        "The user-data to hand to cloud-init.",
    ),
    of("args", &["run", "ansible"], Shape::Words, "Arguments, one word each."),
    of("env", &["run", "ansible"], Shape::Variables, "Environment variables."),
    of("exit", &["run"], Shape::Exit(&MEANINGS), "What exit codes mean."),
    of(
        "inputs",
        &["run"],
        Shape::Words,
        "Files and directories whose change makes it run again.",
    ),
    of("user", &["run"], Shape::Text, "The user that it runs as."),
    of(
        "dest",
        &["file", "template", "archive"],
        Shape::Absolute,
        "The final path on the machine; a directory's contents land in it.",
    ),
    of(
        "mode",
        &["file", "template", "directory"],
        Shape::Mode,
        "Permission bits, octal, in quotes.",
    ),
    of(
        "keep",
        &["file", "template"],
        Shape::Flag,
        "Leave it when a later release no longer lists it.",
    ),
    of("purge", &["file"], Shape::Flag, "Remove what else is in the directory."),
    of("owner", &["directory"], Shape::Text, "The user that it belongs to."),
    of("group", &["directory"], Shape::Text, "The group that it belongs to."),
    of("target", &["link"], Shape::Text, "What the link says."),
    of(
        "state",
        &["service"],
        Shape::OneOf(&SERVICE_STATES),
        "What is to be with it now.",
    ),
    of(
        "enabled",
        &["service"],
        Shape::Flag,
        "Whether it starts with the machine.",
    ),
    of("uid", &["user"], Shape::Number, "The user's number."),
    of("groups", &["user"], Shape::Words, "Groups that the user is to be in."),
    of("home", &["user"], Shape::Absolute, "Home directory."),
    of("shell", &["user"], Shape::Absolute, "Login shell."),
    of("ssh_keys", &["user"], Shape::Words, "Lines of authorized_keys."),
    of(
        "system",
        &["user"],
        Shape::Flag,
        "A user for a program and not for a person.",
    ),
    of(
        "modules",
        &["cloud-init"],
        Shape::Words,
        "Modules of cloud-init to run.",
    ),
];

/// The names of the keys that every step takes.
pub(super) fn common_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| key.kinds.is_empty()).map(|key| key.name)
}

/// The names of the keys that steps of this kind take beside those.
pub(super) fn names_of(kind: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter(move |key| key.kinds.contains(&kind))
        .map(|key| key.name)
}

/// The kinds of steps that take a key which not all do.
pub(super) fn owners(name: &str) -> Vec<&'static str> {
    let mut owners: Vec<&str> = KEYS
        .iter()
        .filter(|key| key.name == name)
        .flat_map(|key| key.kinds.iter().copied())
        .collect();
    owners.dedup();
    owners
}
