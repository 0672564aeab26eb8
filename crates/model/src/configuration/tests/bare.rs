//! A directory without a `configuration.toml`.

use super::{Resolved, TreeEntry, directory, file, file_with, ids, link, resolve, sorted};
use crate::list::Action;

pub(super) fn bare(tree: Vec<TreeEntry>) -> Result<Resolved, Vec<String>> {
    resolve("web", None, &sorted(tree), None).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_bare_directory_is_taken_by_its_names() {
    let resolved = bare(vec![
        directory("files"),
        directory("files/etc"),
        file("files/etc/README"),
        file("100-last.sh"),
        file("20-app.tar.gz"),
        file("30-nginx-1.26.x86_64.rpm"),
        file("30-nginx_1.26_amd64.deb"),
        file("30-curl.deb"),
        file("9_first.sh"),
        file_with("10-tool", 0o755, b"\x7fELF"),
        file_with("10-script", 0o644, b"#!/usr/bin/perl"),
    ])
    .unwrap();
    assert_eq!(
        ids(&resolved.steps),
        [
            "files",
            "9_first",
            "10-script",
            "10-tool",
            "20-app",
            "30-curl",
            "30-nginx",
            "100-last"
        ]
    );
    assert_eq!(
        resolved.steps[6].action,
        Action::Package {
            sources: vec!["30-nginx-1.26.x86_64.rpm".into(), "30-nginx_1.26_amd64.deb".into()]
        }
    );
    assert!(matches!(&resolved.steps[0].action, Action::File { dest, .. } if dest == "/"));
    assert!(matches!(&resolved.steps[4].action, Action::Archive { dest, .. } if dest == "/"));
    assert!(
        resolved
            .steps
            .iter()
            .all(|step| step.timeout_seconds == 3_600 && step.needs.is_empty())
    );
    assert_eq!(resolved.warnings, Vec::<String>::new());
}

#[test]
fn entries_of_one_number_and_name_keep_ids_apart() {
    let resolved = bare(vec![
        file("10-app.sh"),
        file("10-app.tar"),
        file("20-a_1.deb"),
        file("20-a_2.deb"),
    ])
    .unwrap();
    assert_eq!(
        ids(&resolved.steps),
        ["10-app.sh", "10-app.tar", "20-a_1.deb", "20-a_2.deb"]
    );
}

#[test]
fn what_a_bare_directory_cannot_mean_is_refused_by_name() {
    let errors = bare(vec![
        file(".gitignore"),
        file("README.md"),
        file("10-notes.txt"),
        file("20-app.tar.xz"),
        directory("30-site"),
        link("40-link.sh"),
        file("setup.sh"),
        file("app.deb"),
    ])
    .unwrap_err();
    let begins: Vec<&str> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
    assert_eq!(
        begins,
        [
            ".gitignore",
            "10-notes.txt",
            "20-app.tar.xz",
            "30-site",
            "40-link.sh",
            "README.md",
            "app.deb",
            "setup.sh",
        ]
    );
    assert!(
        errors[7].ends_with("rename it, for example to 10-setup.sh"),
        "{}",
        errors[7]
    );
    assert!(errors[5].contains("configuration.toml"), "{}", errors[5]);
    assert!(errors[2].contains(".tar.zst"), "{}", errors[2]);
}

#[test]
fn an_empty_directory_is_refused() {
    assert_eq!(
        bare(vec![]).unwrap_err(),
        [".: the directory is empty: there is nothing to publish"]
    );
}
