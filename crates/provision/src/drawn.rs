//! Configurations and machines as chance draws them, for properties.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use potluck_model::list::{Action, List, OnFailure};
use proptest::prelude::*;

use crate::bench::Bench;
use crate::common::Release;

/// A step of a generated configuration, by number.
#[derive(Clone, Debug)]
pub(crate) enum Drawn {
    File {
        text: u8,
        mode: bool,
        dest: u8,
    },
    Tree {
        files: u8,
        purge: bool,
    },
    Template {
        text: u8,
        dest: u8,
    },
    Link {
        target: u8,
        dest: u8,
    },
    Directory {
        mode: bool,
        dest: u8,
    },
    Script {
        exit: u8,
        creates: Option<u8>,
        goes_on: bool,
    },
}

pub(crate) fn drawn() -> impl Strategy<Value = Drawn> {
    prop_oneof![
        3 => (0..3_u8, any::<bool>(), 0..5_u8).prop_map(|(text, mode, dest)| Drawn::File { text, mode, dest }),
        1 => (0..4_u8, any::<bool>()).prop_map(|(files, purge)| Drawn::Tree { files, purge }),
        2 => (0..3_u8, 0..5_u8).prop_map(|(text, dest)| Drawn::Template { text, dest }),
        2 => (0..3_u8, 0..5_u8).prop_map(|(target, dest)| Drawn::Link { target, dest }),
        1 => (any::<bool>(), 0..5_u8).prop_map(|(mode, dest)| Drawn::Directory { mode, dest }),
        2 => (0..6_u8, prop::option::of(0..5_u8), any::<bool>())
            .prop_map(|(exit, creates, goes_on)| Drawn::Script { exit: exit / 5, creates, goes_on }),
    ]
}

/// What is drawn, and a step behind it.
pub(crate) fn list(bench: &Bench, number: u64, steps: &[Drawn]) -> List {
    release(bench, number, steps).script("last", "true").list()
}

/// What is drawn, to be refined.
pub(crate) fn release<'b>(bench: &'b Bench, number: u64, steps: &[Drawn]) -> Release<'b> {
    let mut release = bench.node.release(number);
    let mut taken = BTreeSet::new();
    for (index, step) in steps.iter().enumerate() {
        let id = format!("s{index}");
        let source = format!("source-{index}");
        // Two steps for one path are refused when a release is published.
        let mut free = |name: String| taken.insert(name.clone()).then_some(name);
        release = match step {
            Drawn::File { text, mode, dest } => match free(format!("/etc/{dest}")) {
                Some(dest) => release
                    .file(&source, if *mode { 0o644 } else { 0o600 }, format!("text {text}\n"))
                    .place(&id, &source, &dest),
                None => release,
            },
            Drawn::Tree { files, purge: all } => match free("/srv".into()) {
                Some(dest) => {
                    let mut release = release.directory(&source, 0o755);
                    for number in 0..*files {
                        release = release.file(&format!("{source}/d{}/{number}", number % 2), 0o644, "tree");
                    }
                    release.place(&id, &source, &dest).with(|step| {
                        if let Action::File { purge, .. } = &mut step.action {
                            *purge = *all;
                        }
                    })
                }
                None => release,
            },
            Drawn::Template { text, dest } => match free(format!("/etc/{dest}")) {
                Some(dest) => release.file(&source, 0o644, format!("{{{{ node }}}} {text}\n")).step(
                    &id,
                    Action::Template {
                        source,
                        dest,
                        mode: None,
                        keep: false,
                    },
                ),
                None => release,
            },
            Drawn::Link { target, dest } => match free(format!("/etc/{dest}")) {
                Some(dest) => {
                    let target = format!("to-{target}");
                    release.step(&id, Action::Link { dest, target })
                }
                None => release,
            },
            Drawn::Directory { mode, dest } => match free(format!("/var/{dest}")) {
                Some(dest) => release.step(
                    &id,
                    Action::Directory {
                        dest,
                        mode: mode.then_some(0o750),
                        owner: None,
                        group: None,
                    },
                ),
                None => release,
            },
            Drawn::Script { exit, creates, goes_on } => {
                let makes = creates.map_or_else(String::new, |dest| {
                    format!("mkdir -p $POTLUCK_ROOT/made; touch $POTLUCK_ROOT/made/{dest}\n")
                });
                release.script(&id, &format!("{makes}exit {exit}")).with(|step| {
                    step.creates = creates.map(|dest| format!("/made/{dest}"));
                    if *goes_on {
                        step.on_failure = OnFailure::Continue;
                    }
                })
            }
        };
    }
    release
}

/// Something that somebody does to the machine.
pub(crate) fn disturb(bench: &Bench, what: u8) {
    let root = |path: &str| bench.node.root(path);
    let at = root(&format!("etc/{}", what % 5));
    match what / 5 {
        0 => drop(fs::remove_file(at)),
        1 => drop(fs::create_dir_all(root("etc")).and_then(|()| fs::write(at, "text 0\n"))),
        2 => drop(fs::set_permissions(at, fs::Permissions::from_mode(0o640))),
        3 => {
            drop(fs::remove_file(&at));
            drop(fs::create_dir_all(&at));
        }
        4 => drop(fs::create_dir_all(root("srv/d0")).and_then(|()| fs::write(root("srv/d0/stray"), "x"))),
        5 => drop(fs::create_dir_all(root("made")).and_then(|()| fs::write(root(&format!("made/{}", what % 5)), ""))),
        _ => {
            drop(fs::remove_file(&at));
            drop(fs::create_dir_all(root("etc")).and_then(|()| symlink("to-0", at)));
        }
    }
}
