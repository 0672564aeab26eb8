//! Steps that place things: templates, links, directories, purging.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use potluck_model::list::Action;
use potluck_model::trace::Outcome::{Changed, Failed, Unchanged};

use crate::bench::Bench;

fn template(source: &str, dest: &str) -> Action {
    Action::Template {
        source: source.into(),
        dest: dest.into(),
        mode: Some(0o640),
        keep: false,
    }
}

#[test]
fn a_template_is_rendered_placed_and_removed_when_it_is_no_longer_listed() {
    let bench = Bench::new(false);
    let list = |number, port: i64, dest: &str| {
        bench
            .node
            .release(number)
            .file("app.conf.j2", 0o644, "{{ facts.os }} {{ node }} {{ port }}\n")
            .var("port", port)
            .step("conf", template("app.conf.j2", dest))
            .list()
    };
    let report = bench.execute(&list(1, 80, "/etc/app.conf"));
    assert_eq!(report.outcome("conf"), Changed, "{}", report.message("conf"));
    assert_eq!(bench.node.read("etc/app.conf"), "linux 0000000000000001 80\n");
    assert_eq!(bench.node.mode("etc/app.conf"), 0o640);
    assert_eq!(bench.execute(&list(1, 80, "/etc/app.conf")).outcome("conf"), Unchanged);
    assert_eq!(bench.execute(&list(2, 81, "/etc/app.conf")).outcome("conf"), Changed);
    assert_eq!(bench.execute(&list(3, 81, "/etc/other.conf")).outcome("conf"), Changed);
    assert!(!bench.node.root("etc/app.conf").exists(), "it moved");
    bench.execute(&bench.node.release(4).script("x", "true").list());
    assert!(!bench.node.root("etc/other.conf").exists());
}

#[test]
fn a_template_that_does_not_render_places_nothing() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .file("bad", 0o644, "fine\n{{ prot }}\n")
        .step("bad", template("bad", "/etc/bad"))
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("bad"), Failed);
    assert!(report.message("bad").contains("line 2"), "{}", report.message("bad"));
    assert!(!bench.node.root("etc").exists());
}

#[test]
fn a_link_is_made_replaced_and_removed() {
    let bench = Bench::new(false);
    let list = |number, target: &str| {
        let action = Action::Link {
            dest: "/opt/current".into(),
            target: target.into(),
        };
        bench.node.release(number).step("link", action).list()
    };
    let read = || fs::read_link(bench.node.root("opt/current")).ok();
    assert_eq!(bench.execute(&list(1, "one")).outcome("link"), Changed);
    assert_eq!(bench.execute(&list(1, "one")).outcome("link"), Unchanged);
    assert_eq!(bench.execute(&list(2, "/two")).outcome("link"), Changed);
    assert_eq!(read(), Some("/two".into()));
    bench.execute(&bench.node.release(3).script("x", "true").list());
    assert_eq!(read(), None);
}

#[test]
fn a_directory_gets_its_mode_and_stays() {
    let bench = Bench::new(false);
    let list = |number, mode| {
        let action = Action::Directory {
            dest: "/var/lib/app".into(),
            mode,
            owner: None,
            group: None,
        };
        bench.node.release(number).step("dir", action).list()
    };
    assert_eq!(bench.execute(&list(1, Some(0o750))).outcome("dir"), Changed);
    assert_eq!(bench.node.mode("var/lib/app"), 0o750);
    assert_eq!(bench.execute(&list(1, Some(0o750))).outcome("dir"), Unchanged);
    let report = bench.execute(&list(2, Some(0o1777)));
    assert_eq!(report.message("dir"), "changed its mode from 750 to 1777");
    assert_eq!(bench.execute(&list(3, None)).outcome("dir"), Unchanged);
    bench.execute(&bench.node.release(4).script("x", "true").list());
    assert_eq!(bench.node.mode("var/lib/app"), 0o1777);
}

#[test]
fn the_mode_of_a_directory_is_not_set_through_a_link_that_leads_out() {
    let bench = Bench::new(false);
    fs::create_dir(bench.path("outside")).unwrap();
    fs::set_permissions(bench.path("outside"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(bench.path("outside"), bench.node.root("way")).unwrap();
    let action = Action::Directory {
        dest: "/way".into(),
        mode: Some(0o777),
        owner: None,
        group: None,
    };
    let report = bench.execute(&bench.node.release(1).step("dir", action).list());
    assert_eq!(report.outcome("dir"), Failed);
    let mode = fs::metadata(bench.path("outside")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn purge_removes_what_no_step_places_and_follows_no_link() {
    let bench = Bench::new(false);
    let list = |number, purge_it: bool| {
        bench
            .node
            .release(number)
            .file("site/a", 0o644, "a")
            .file("site/sub/b", 0o644, "b")
            .file("extra", 0o644, "x")
            .place("site", "site", "/srv")
            .with(|step| {
                if let Action::File { purge, .. } = &mut step.action {
                    *purge = purge_it;
                }
            })
            .place("extra", "extra", "/srv/deep/down/extra")
            .list()
    };
    assert_eq!(bench.execute(&list(1, false)).outcome("site"), Changed);
    fs::create_dir_all(bench.path("outside")).unwrap();
    bench.write("outside/precious", "");
    fs::create_dir_all(bench.node.root("srv/old/nested")).unwrap();
    fs::write(bench.node.root("srv/old/nested/file"), "").unwrap();
    fs::write(bench.node.root("srv/sub/stray"), "").unwrap();
    symlink(bench.path("outside"), bench.node.root("srv/old/way")).unwrap();
    assert_eq!(bench.execute(&list(1, false)).outcome("site"), Unchanged);
    let report = bench.execute(&list(2, true));
    assert_eq!(report.outcome("site"), Changed);
    assert!(
        report
            .message("site")
            .contains("removed 2 that the release does not have"),
        "{}",
        report.message("site")
    );
    assert!(!bench.node.root("srv/old").exists() && !bench.node.root("srv/sub/stray").exists());
    assert!(bench.path("outside/precious").exists());
    assert_eq!(bench.node.read("srv/deep/down/extra"), "x");
    assert_eq!(bench.execute(&list(2, true)).outcome("site"), Unchanged);
}
