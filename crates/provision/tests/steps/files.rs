//! What is placed, unpacked and removed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use potluck_model::Digest;
use potluck_model::list::{Action, List};
use potluck_model::trace::Outcome::{Changed, Failed, Unchanged};

use crate::common::{Node, below};
use crate::{execute, execute_job, names};

#[test]
fn files_get_their_bytes_modes_and_links_and_nothing_else_is_touched() {
    let node = Node::new();
    fs::create_dir_all(node.root("srv/www/tmp")).unwrap();
    fs::set_permissions(node.root("srv/www/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(node.root("srv/www/index.html"), "old").unwrap();
    fs::write(node.root("srv/www/mine"), "mine").unwrap();
    let list = node
        .release(1)
        .file("site/index.html", 0o640, "new")
        .file("site/bin/run", 0o755, "#!")
        .file("site/empty", 0o600, "")
        .directory("site/void", 0o700)
        .directory("site/tmp", 0o755)
        .link("site/latest", "bin/run")
        .place("site", "site", "/srv/www")
        .file("one", 0o644, "one")
        .step(
            "one",
            Action::File {
                source: "one".into(),
                dest: "/etc/deep/one.conf".into(),
                mode: Some(0o4711),
                keep: false,
                purge: false,
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(names(&report), [("site".into(), Changed), ("one".into(), Changed)]);
    assert!(report.message("site").starts_with("placed 4 of 4 files: /srv/www/"));
    assert_eq!(node.read("srv/www/index.html"), "new");
    assert_eq!(node.read("srv/www/mine"), "mine");
    assert_eq!(node.read("etc/deep/one.conf"), "one");
    assert_eq!(node.mode("srv/www/index.html"), 0o640);
    assert_eq!(node.mode("srv/www/bin/run"), 0o755);
    assert_eq!(node.mode("srv/www/void"), 0o700);
    assert_eq!(
        node.mode("srv/www/tmp"),
        0o1777,
        "a directory that was there stays as it is"
    );
    assert_eq!(node.mode("etc/deep"), 0o755);
    assert_eq!(node.mode("etc/deep/one.conf"), 0o4711);
    assert_eq!(
        fs::read_link(node.root("srv/www/latest")).unwrap(),
        Path::new("bin/run")
    );
    assert!(below(&node.root("")).iter().all(|name| !name.contains(".potluck")));
}

#[test]
fn a_file_that_differs_in_bytes_mode_or_kind_is_placed_again() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("site/a", 0o644, "aaaa")
        .link("site/l", "a")
        .place("site", "site", "/w")
        .list();
    execute(&node, &list);
    let damage: [fn(&Node); 5] = [
        |node| fs::write(node.root("w/a"), "bbbb").unwrap(),
        |node| fs::set_permissions(node.root("w/a"), fs::Permissions::from_mode(0o600)).unwrap(),
        |node| {
            fs::rename(node.root("w/a"), node.root("elsewhere")).unwrap();
            symlink("../elsewhere", node.root("w/a")).unwrap();
        },
        |node| fs::remove_file(node.root("w/a")).unwrap(),
        |node| {
            fs::remove_file(node.root("w/l")).unwrap();
            fs::write(node.root("w/l"), "aaaa").unwrap();
        },
    ];
    for damage in damage {
        damage(&node);
        assert_eq!(execute(&node, &list).outcome("site"), Changed);
        assert_eq!(node.read("w/a"), "aaaa");
        assert!(fs::symlink_metadata(node.root("w/a")).unwrap().is_file());
        assert_eq!(node.mode("w/a"), 0o644);
        assert_eq!(fs::read_link(node.root("w/l")).unwrap(), Path::new("a"));
        assert_eq!(execute(&node, &list).outcome("site"), Unchanged);
    }
}

#[test]
fn links_on_the_machine_are_followed_inside_the_root_only() {
    let node = Node::new();
    let outside = node.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(node.root("usr/lib")).unwrap();
    symlink("/usr/lib", node.root("lib")).unwrap();
    symlink(&outside, node.root("out")).unwrap();
    symlink("../../outside", node.root("up")).unwrap();
    let inside = node.release(1).file("f", 0o644, "f").place("a", "f", "/lib/f").list();
    assert_eq!(execute(&node, &inside).outcome("a"), Changed);
    assert_eq!(node.read("usr/lib/f"), "f");
    for (number, dest) in [(2, "/out/f"), (3, "/up/f"), (4, "/out/deep/f")] {
        let list = node.release(number).file("f", 0o644, "f").place("b", "f", dest).list();
        assert_eq!(execute(&node, &list).outcome("b"), Failed, "{dest}");
    }
    assert!(below(&outside).is_empty());
}

#[test]
fn a_directory_and_a_file_do_not_replace_each_other() {
    let node = Node::new();
    fs::create_dir_all(node.root("d/x")).unwrap();
    fs::write(node.root("f"), "").unwrap();
    let list = node.release(1).file("f", 0o644, "f").place("a", "f", "/d").list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(report.message("a").contains("/d"), "{}", report.message("a"));
    let list = node.release(2).file("d/f", 0o644, "f").place("a", "d", "/f").list();
    assert_eq!(execute(&node, &list).outcome("a"), Failed);
    let list = node.release(3).file("f", 0o644, "f").place("a", "f", "/").list();
    assert_eq!(execute(&node, &list).outcome("a"), Failed);
}

#[test]
fn what_is_no_longer_listed_is_removed_if_nobody_changed_it() {
    let node = Node::new();
    let first = node
        .release(1)
        .file("site/kept", 0o644, "1")
        .file("site/gone", 0o644, "2")
        .file("site/edited", 0o644, "3")
        .file("site/sub/deep/gone", 0o644, "4")
        .link("site/link", "kept")
        .file("site/moved", 0o644, "5")
        .place("site", "site", "/w")
        .list();
    execute(&node, &first);
    fs::write(node.root("w/edited"), "by hand").unwrap();
    fs::write(node.root("w/foreign"), "foreign").unwrap();
    let second = node
        .release(2)
        .file("site/kept", 0o644, "1")
        .place("site", "site", "/w")
        .file("moved", 0o644, "5")
        .place("other", "moved", "/w/moved")
        .list();
    let report = execute(&node, &second);
    assert_eq!(report.outcome("site"), Changed);
    assert!(
        report.message("site").contains("removed 3 no longer listed"),
        "{}",
        report.message("site")
    );
    assert!(
        report.message("site").contains("/w/edited"),
        "{}",
        report.message("site")
    );
    assert_eq!(below(&node.root("w")), ["edited", "foreign", "kept", "moved"]);
    assert_eq!(report.outcome("other"), Unchanged);
    assert_eq!(execute(&node, &second).recap().changed, 0);
}

#[test]
fn files_of_a_step_that_is_gone_are_removed_unless_it_said_keep() {
    let node = Node::new();
    let first = node
        .release(1)
        .file("a", 0o644, "a")
        .place("gone", "a", "/d/a")
        .file("b", 0o644, "b")
        .place("stays", "b", "/d/b")
        .with(|step| {
            if let Action::File { keep, .. } = &mut step.action {
                *keep = true;
            }
        })
        .list();
    execute(&node, &first);
    let failing = node.release(2).script("x", "exit 1").list();
    execute(&node, &failing);
    assert_eq!(below(&node.root("d")), ["a", "b"], "nothing is removed after a failure");
    let second = node.release(3).script("x", "exit 0").list();
    let report = execute(&node, &second);
    assert_eq!(names(&report), [("x".into(), Changed), ("gone".into(), Changed)]);
    assert_eq!(report.message("gone"), "removed 1 no longer listed: /d/a");
    assert_eq!(report.recap().changed, 2);
    assert_eq!(below(&node.root("d")), ["b"]);
    let another = node.release(1).of("another").script("y", "true").list();
    execute(&node, &another);
    assert_eq!(below(&node.root("d")), ["b"], "another configuration removes nothing");
}

#[test]
fn five_thousand_small_files_are_placed_and_found_unchanged() {
    let node = Node::new();
    let mut release = node.release(1);
    for number in 0..5_000 {
        release = release.file(
            &format!("site/{}/{number}", number % 50),
            0o644,
            format!("file {number}"),
        );
    }
    let list = release.place("site", "site", "/srv").list();
    assert_eq!(execute(&node, &list).recap().changed, 1);
    assert_eq!(below(&node.root("srv")).len(), 5_050);
    assert_eq!(execute(&node, &list).recap().unchanged, 1);
}

#[test]
fn bytes_that_are_not_those_of_the_list_are_never_used() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("site/a", 0o644, "aaaa")
        .file("site/b", 0o644, "bbbb")
        .place("site", "site", "/w")
        .list();
    fs::write(node.stored(Digest::of(b"bbbb")), "evil").unwrap();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("site"), Failed);
    assert!(report.message("site").contains("site/b"), "{}", report.message("site"));
    assert!(below(&node.root("")).is_empty(), "nothing of the step is placed");

    let list = node.release(2).script("a", "touch $POTLUCK_ROOT/ran").list();
    fs::write(
        node.stored(Digest::of(b"touch $POTLUCK_ROOT/ran")),
        "touch $POTLUCK_ROOT/bad",
    )
    .unwrap();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(report.message("a").contains("a.sh"), "{}", report.message("a"));
    assert!(below(&node.root("")).is_empty());
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn an_archive_is_unpacked_once_and_again_when_it_or_its_place_changed() {
    let node = Node::new();
    let release = |number, text: &str, dest: &str| {
        node.release(number)
            .file("app.tar.gz", 0o644, archive(&[("bin/app", text), ("README", "x")]))
            .step(
                "app",
                Action::Archive {
                    source: "app.tar.gz".into(),
                    dest: dest.into(),
                },
            )
            .list()
    };
    let report = execute(&node, &release(1, "one", "/opt/app"));
    assert_eq!(report.message("app"), "unpacked 2 files to /opt/app");
    assert_eq!(node.read("opt/app/bin/app"), "one");
    let outcome = |list: List| execute(&node, &list).outcome("app");
    assert_eq!(outcome(release(2, "one", "/opt/app")), Unchanged);
    assert_eq!(outcome(release(3, "two", "/opt/app")), Changed);
    assert_eq!(outcome(release(4, "one", "/opt/app")), Changed, "back to the first");
    assert_eq!(node.read("opt/app/bin/app"), "one");
    assert_eq!(outcome(release(5, "one", "/opt/other")), Changed);
    assert_eq!(outcome(release(6, "one", "/opt/app")), Unchanged);
    fs::remove_dir_all(node.root("opt/app")).unwrap();
    assert_eq!(outcome(release(7, "one", "/opt/app")), Changed);
    assert!(!node.dir().join("work").exists());
}

#[test]
fn an_archive_that_is_refused_leaves_nothing() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("bad.zip", 0o644, b"PK\x03\x04 and then nothing")
        .step(
            "bad",
            Action::Archive {
                source: "bad.zip".into(),
                dest: "/opt".into(),
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("bad"), Failed);
    assert!(
        report.message("bad").starts_with("cannot unpack bad.zip"),
        "{}",
        report.message("bad")
    );
    assert!(below(&node.root("")).is_empty());
    assert!(!node.dir().join("work").exists());
}

#[test]
fn packages_are_for_the_whole_machine() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("a.deb", 0o644, "deb")
        .file("a.rpm", 0o644, "rpm")
        .step(
            "a",
            Action::Package {
                sources: vec!["a.deb".into(), "a.rpm".into()],
            },
        )
        .list();
    let report = execute(&node, &list);
    assert_eq!(report.outcome("a"), Failed);
    assert!(
        report.message("a").starts_with("unsupported"),
        "{}",
        report.message("a")
    );
}

#[test]
fn a_release_lacks_only_packages_of_the_other_package_manager() {
    let node = Node::new();
    let list = node
        .release(1)
        .file("x.rpm", 0o644, "rpm")
        .step(
            "never",
            Action::Package {
                sources: vec!["x.rpm".into()],
            },
        )
        .with(|step| step.creates = Some("/".into()))
        .script("run", "ls")
        .list();
    let machine = potluck_provision::Machine::detect();
    let usable = potluck_provision::usable(&list, &machine);
    let mut job = node.job(&list);
    job.contents.retain(|(digest, _)| usable.contains(digest));
    assert_eq!(execute_job(&node, &job).outcome("run"), Changed);
    job = node.job(&list);
    job.contents.clear();
    let list = node.release(2).file("data", 0o644, "data").script("run", "ls;").list();
    job = node.job(&list);
    job.contents.retain(|(digest, _)| *digest != Digest::of(b"data"));
    let report = execute_job(&node, &job);
    assert_eq!(report.outcome("run"), Failed);
    assert!(report.message("run").contains("data"), "{}", report.message("run"));
}
