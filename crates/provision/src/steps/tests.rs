//! Steps that work through the machine's programs, against stand-ins that record how they are called; and steps that place things.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use potluck_model::list::{Action, Limits, List, OnFailure, OnInterrupt, Retry, ServiceState};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Skipped, Unchanged};

use crate::common::{Node, Report};
use crate::machine::Machine;
use crate::process;

/// A node whose steps find stand-ins before the machine's programs, and that has the machine itself for its root if `machine`.
struct Bench {
    node: Node,
    machine: bool,
}

impl Bench {
    fn new(machine: bool) -> Self {
        let node = Node::new();
        fs::create_dir(node.temp.path().join("programs")).unwrap();
        Self { node, machine }
    }

    /// A program that notes its arguments in `calls` and then does what `script` says. `$STATE` is a directory of its own.
    fn program(&self, name: &str, script: &str) {
        let path = self.path("programs").join(name);
        let state = self.path("");
        let state = state.display();
        let text = format!("#!/bin/sh\nSTATE={state}\necho \"{name} $*\" >> {state}/calls\n{script}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.node.temp.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What was called since the last time.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().map(ToOwned::to_owned).collect()
    }

    fn execute(&self, list: &List) -> Report {
        fs::create_dir_all(self.node.dir()).unwrap();
        let mut job = self.node.job(list);
        if self.machine {
            job.machine_root = "/".into();
        }
        let mut search: OsString = self.path("programs").into_os_string();
        search.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        process::run(
            &self.node.dir(),
            &job,
            None,
            &AtomicBool::new(false),
            Machine::default(),
            search,
        )
        .unwrap();
        self.node.news()
    }
}

/// Stands in for systemd: `units/NAME.PROPERTY` says what is, and verbs change it.
const SYSTEMCTL: &str = r#"
eval last=\${$#}
case $1 in
show) property=${3#--property=}; cat "$STATE/units/$last.$property" 2>/dev/null || { [ $property = LoadState ] && echo not-found; }; exit 0;;
enable) echo enabled > "$STATE/units/$last.UnitFileState";;
disable) echo disabled > "$STATE/units/$last.UnitFileState";;
start|restart|reload-or-restart) echo active > "$STATE/units/$last.ActiveState";;
stop) echo inactive > "$STATE/units/$last.ActiveState";;
daemon-reload) rm -f "$STATE"/units/*.NeedDaemonReload;;
esac
"#;

fn systemd() -> Bench {
    let bench = Bench::new(true);
    fs::create_dir(bench.path("units")).unwrap();
    bench.program("systemctl", SYSTEMCTL);
    for (property, value) in [
        ("LoadState", "loaded"),
        ("UnitFileState", "disabled"),
        ("ActiveState", "inactive"),
    ] {
        bench.write(&format!("units/app.service.{property}"), value);
    }
    bench
}

/// Calls that were not only questions.
fn verbs(bench: &Bench) -> Vec<String> {
    bench
        .calls()
        .into_iter()
        .filter(|call| !call.starts_with("systemctl show"))
        .collect()
}

fn service(state: Option<ServiceState>, enabled: Option<bool>) -> Action {
    Action::Service {
        name: "app.service".into(),
        state,
        enabled,
    }
}

#[test]
fn a_service_is_started_and_enabled_once() {
    let bench = systemd();
    let list = bench
        .node
        .release(1)
        .step("app", service(Some(ServiceState::Started), Some(true)))
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("app"), Changed, "{}", report.message("app"));
    assert_eq!(report.message("app"), "enabled it; started it");
    assert_eq!(
        verbs(&bench),
        ["systemctl enable app.service", "systemctl start app.service"]
    );
    let report = bench.execute(&list);
    assert_eq!(report.outcome("app"), Unchanged);
    assert_eq!(verbs(&bench), Vec::<String>::new());
    let list = bench
        .node
        .release(2)
        .step("app", service(Some(ServiceState::Stopped), Some(false)))
        .list();
    assert_eq!(bench.execute(&list).message("app"), "disabled it; stopped it");
}

#[test]
fn a_unit_that_changed_on_disk_is_read_again_first() {
    let bench = systemd();
    bench.write("units/app.service.NeedDaemonReload", "yes");
    let list = bench
        .node
        .release(1)
        .step("app", service(Some(ServiceState::Restarted), None))
        .list();
    assert_eq!(bench.execute(&list).outcome("app"), Changed);
    assert_eq!(
        verbs(&bench),
        ["systemctl daemon-reload", "systemctl restart app.service"]
    );
}

#[test]
fn a_unit_that_is_not_there_or_masked_is_said_so() {
    for (state, expected) in [("not-found", "there is no unit"), ("masked", "unmask")] {
        let bench = systemd();
        bench.write("units/app.service.LoadState", state);
        let list = bench
            .node
            .release(1)
            .step("app", service(Some(ServiceState::Started), None))
            .list();
        let report = bench.execute(&list);
        assert_eq!(report.outcome("app"), Failed);
        assert!(report.message("app").contains(expected), "{}", report.message("app"));
    }
}

#[test]
fn what_concerns_the_machine_is_unsupported_with_another_root() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .step("app", service(Some(ServiceState::Started), None))
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("app"), Failed);
    assert!(report.message("app").starts_with("unsupported: services"));
}

/// A service that is reloaded if the file changed, and a script between that may fail.
fn notifying(bench: &Bench, number: u64, text: &str, script: &str) -> List {
    let dest = bench.path("app.conf");
    bench
        .node
        .release(number)
        .file("app.conf", 0o644, text)
        .place("conf", "app.conf", dest.to_str().unwrap())
        .with(|step| step.notify = vec!["reload".parse().unwrap()])
        .script("between", script)
        .with(|step| step.unless = Some(vec!["false".into()]))
        .step("reload", service(Some(ServiceState::Reloaded), None))
        .list()
}

#[test]
fn a_service_is_reloaded_once_at_the_end_if_what_feeds_it_changed() {
    let bench = systemd();
    let report = bench.execute(&notifying(&bench, 1, "one", "exit 0"));
    assert_eq!(report.outcome("reload"), Changed);
    assert_eq!(verbs(&bench), ["systemctl reload-or-restart app.service"]);
    let report = bench.execute(&notifying(&bench, 1, "one", "exit 0"));
    assert_eq!(report.outcome("reload"), Skipped, "nothing changed");
    assert_eq!(verbs(&bench), Vec::<String>::new());
    bench.execute(&notifying(&bench, 2, "two", "exit 0"));
    assert_eq!(verbs(&bench), ["systemctl reload-or-restart app.service"]);
}

#[test]
fn what_is_to_follow_a_change_follows_it_in_a_later_run_if_a_step_between_failed() {
    let bench = systemd();
    let ready = bench.path("ready");
    let script = format!("test -e {}", ready.display());
    let list = notifying(&bench, 1, "one", &script);
    let report = bench.execute(&list);
    assert_eq!(report.outcome("between"), Failed);
    assert_eq!(report.outcome("reload"), Blocked);
    assert_eq!(verbs(&bench), Vec::<String>::new());
    fs::write(ready, "").unwrap();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("conf"), Unchanged);
    assert_eq!(report.outcome("reload"), Changed, "the file changed in the run before");
    assert_eq!(bench.execute(&list).outcome("reload"), Skipped);
}

/// Stands in for shadow's tools: `passwd` is a file.
fn accounts() -> Bench {
    let bench = Bench::new(true);
    bench.write("passwd", "");
    bench.write("groups", "app");
    bench.program("getent", "grep \"^$3:\" $STATE/$1 || exit 2");
    let home = bench.path("home");
    fs::create_dir(&home).unwrap();
    bench.program(
        "useradd",
        &format!(
            "eval name=\\${{$#}}; echo \"$name:x:900:900::{}:/bin/sh\" > $STATE/passwd",
            home.display()
        ),
    );
    bench.program(
        "usermod",
        "sed -i 's,:/bin/sh$,:/bin/bash,' $STATE/passwd; echo app adm > $STATE/groups",
    );
    bench.program("id", "cat $STATE/groups");
    bench.program("setpriv", "while [ $1 != -- ]; do shift; done; shift; exec \"$@\"");
    bench
}

fn user(shell: &str, groups: &[&str], keys: &[&str]) -> Action {
    let all = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    Action::User {
        name: "app".into(),
        uid: Some(900),
        groups: all(groups),
        home: None,
        shell: Some(shell.into()),
        ssh_keys: all(keys),
        system: true,
    }
}

#[test]
fn a_user_is_made_once_and_changed_to_what_is_wanted() {
    let bench = accounts();
    let release = |number, action| bench.node.release(number).step("user", action).list();
    let changing = |bench: &Bench| -> Vec<String> {
        let calls = bench.calls();
        calls.into_iter().filter(|call| call.starts_with("user")).collect()
    };
    let list = release(1, user("/bin/sh", &[], &[]));
    let report = bench.execute(&list);
    assert_eq!(report.outcome("user"), Changed, "{}", report.message("user"));
    assert_eq!(changing(&bench), ["useradd --system --uid 900 --shell /bin/sh -- app"]);
    assert_eq!(bench.execute(&list).outcome("user"), Unchanged);
    assert_eq!(changing(&bench), Vec::<String>::new());
    let list = release(2, user("/bin/bash", &["adm"], &[]));
    let report = bench.execute(&list);
    assert_eq!(report.message("user"), "changed its shell, groups");
    assert_eq!(
        changing(&bench),
        ["usermod --shell /bin/bash --append --groups adm -- app"]
    );
    assert_eq!(bench.execute(&list).outcome("user"), Unchanged);
}

#[test]
fn ssh_keys_are_added_as_the_user_and_others_stay() {
    let bench = accounts();
    let keys = ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"];
    let list = bench.node.release(1).step("user", user("/bin/sh", &[], &keys)).list();
    fs::create_dir(bench.path("home/.ssh")).unwrap();
    bench.write(
        "home/.ssh/authorized_keys",
        "ssh-ed25519 CCCC mine\nssh-ed25519 AAAA one",
    );
    let report = bench.execute(&list);
    assert_eq!(report.message("user"), "made the user; added ssh keys");
    assert_eq!(
        fs::read_to_string(bench.path("home/.ssh/authorized_keys")).unwrap(),
        "ssh-ed25519 CCCC mine\nssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"
    );
    if rustix::process::geteuid().is_root() {
        let as_user = bench
            .calls()
            .iter()
            .any(|call| call.starts_with("setpriv --reuid=900 --regid=900"));
        assert!(as_user, "root does not write into a home");
    }
    assert_eq!(bench.execute(&list).outcome("user"), Unchanged);
}

#[test]
fn the_recap_of_a_playbook_says_whether_it_changed_anything() {
    let bench = Bench::new(true);
    bench.program(
        "ansible-playbook",
        "cat $STATE/recap; code=$(cat $STATE/code); exit $code",
    );
    let list = bench
        .node
        .release(1)
        .file("site.yml", 0o644, "- hosts: all\n")
        .var("workers", 4)
        .step(
            "site",
            Action::Ansible {
                source: "site.yml".into(),
                args: vec!["--diff".into()],
                env: vec![],
            },
        )
        .list();
    let recap = |changed, failed| format!("localhost : ok=3 changed={changed} unreachable=0 failed={failed}\n");
    for (recap, code, expected) in [
        (recap(1, 0), "0", Changed),
        (recap(0, 0), "0", Unchanged),
        (recap(1, 2), "2", Failed),
        ("skipping: no hosts matched\n".to_owned(), "0", Failed),
    ] {
        bench.write("recap", &recap);
        bench.write("code", code);
        let report = bench.execute(&list);
        assert_eq!(report.outcome("site"), expected, "{recap}: {}", report.message("site"));
    }
    let calls = bench.calls();
    assert!(
        calls[0].starts_with(
            "ansible-playbook --inventory localhost, --connection local --extra-vars {\"workers\":4} --diff "
        ),
        "{calls:?}"
    );
}

#[test]
fn user_data_is_handed_to_cloud_init_once_for_its_bytes() {
    let bench = Bench::new(true);
    bench.program("cloud-init", "test -f \"$2\"");
    let list = |number, text: &str| {
        bench
            .node
            .release(number)
            .file("user-data.yaml", 0o644, text)
            .step(
                "first",
                Action::CloudInit {
                    source: "user-data.yaml".into(),
                    modules: vec!["write_files".into(), "runcmd".into()],
                },
            )
            .list()
    };
    let one = list(1, "#cloud-config\n");
    let report = bench.execute(&one);
    assert_eq!(report.outcome("first"), Changed, "{}", report.message("first"));
    let calls = bench.calls();
    assert_eq!(calls.len(), 2);
    assert!(
        calls[1].ends_with("single --frequency always --name runcmd"),
        "{calls:?}"
    );
    assert_eq!(bench.execute(&one).outcome("first"), Unchanged);
    assert_eq!(bench.calls().len(), 0);
    assert_eq!(bench.execute(&list(2, "#cloud-config\n#\n")).outcome("first"), Changed);
}

#[test]
fn a_program_that_is_not_installed_is_told_with_what_to_do() {
    let bench = Bench::new(true);
    let list = bench
        .node
        .release(1)
        .file("script", 0o755, "#!/nowhere/interpreter\n")
        .step("script", crate::common::run("script"))
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("script"), Failed);
    assert!(
        report.message("script").contains("is not installed here"),
        "{}",
        report.message("script")
    );
}

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

#[test]
fn a_condition_that_does_not_hold_skips_the_step() {
    let bench = Bench::new(false);
    let list = |when: &str| {
        bench
            .node
            .release(1)
            .script("only", "true")
            .with(|step| step.when = Some(when.into()))
            .list()
    };
    let report = bench.execute(&list("facts.os == 'plan9'"));
    assert_eq!(report.outcome("only"), Skipped);
    assert!(report.message("only").contains("plan9"));
    assert_eq!(
        bench
            .execute(&list("facts.os == 'linux' and facts.memory_mb > 1"))
            .outcome("only"),
        Changed
    );
    let report = bench.execute(&list("facts.of_the_future > 1"));
    assert_eq!(report.outcome("only"), Failed);
    assert!(report.message("only").contains("update it"));
}

#[test]
fn a_step_is_tried_again_as_often_as_it_says() {
    let bench = Bench::new(false);
    let list = |number, times| {
        bench
            .node
            .release(number)
            .script(
                "flaky",
                "echo x >> $POTLUCK_ROOT/tries; test $(wc -l < $POTLUCK_ROOT/tries) -ge 3",
            )
            .with(|step| {
                step.retry = Some(Retry {
                    times,
                    delay_seconds: 0,
                });
            })
            .list()
    };
    let report = bench.execute(&list(1, 1));
    assert_eq!(report.outcome("flaky"), Failed);
    assert!(
        report.output("flaky")[0].starts_with("(try 1 of 2 failed: exit code 1"),
        "{:?}",
        report.output("flaky")
    );
    fs::remove_file(bench.node.root("tries")).unwrap();
    assert_eq!(bench.execute(&list(2, 5)).outcome("flaky"), Changed);
    assert_eq!(bench.node.read("tries"), "x\nx\nx\n");
}

#[test]
fn a_failure_that_may_go_on_blocks_only_what_needs_it() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("bad", "exit 1")
        .with(|step| step.on_failure = OnFailure::Continue)
        .script("needs", "true")
        .with(|step| step.needs = vec!["bad".parse().unwrap()])
        .script("other", "true")
        .list();
    let report = bench.execute(&list);
    let ended: Vec<_> = report.ended().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(ended, [Failed, Blocked, Changed]);
    assert!(!report.recap().converged());
}

#[test]
fn a_step_that_may_not_be_done_again_has_failed_when_it_was_interrupted() {
    use crate::journal::Journal;
    use crate::state::Fact;
    use potluck_model::trace::What;

    for (on_interrupt, expected) in [
        (OnInterrupt::Again, vec![Changed, Changed]),
        (OnInterrupt::Fail, vec![Blocked]),
    ] {
        let bench = Bench::new(false);
        let list = bench
            .node
            .release(1)
            .script("once", "true")
            .with(|step| step.on_interrupt = on_interrupt)
            .script("next", "true")
            .list();
        // As a run leaves it that was cut off in its first step.
        fs::create_dir_all(bench.node.dir()).unwrap();
        let mut journal = Journal::open(&bench.node.dir()).unwrap();
        let began = Fact::Began {
            configuration: list.configuration.clone(),
            release: 1,
            root: bench.path("root").canonicalize().unwrap(),
        };
        journal.append(Some(list.digest()), None, Some(began)).unwrap();
        let started = What::StepStarted {
            step: "once".parse().unwrap(),
        };
        journal.append(Some(list.digest()), Some(started), None).unwrap();
        drop(journal);
        let report = bench.execute(&list);
        let ended: Vec<_> = report.ended().into_iter().skip(1).map(|(_, outcome)| outcome).collect();
        assert_eq!(ended, expected, "{on_interrupt:?}");
        let again = bench.execute(&list);
        assert!(again.recap().converged(), "the next run begins anew");
    }
}

#[test]
fn limits_that_cannot_be_kept_are_said_and_memory_is_kept() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("limited", "ulimit -v")
        .with(|step| {
            step.limits = Some(Limits {
                memory_bytes: Some(1 << 30),
                cpu_percent: Some(50),
            });
        })
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("limited"), Changed, "{}", report.message("limited"));
    let output = report.output("limited");
    assert!(output[0].contains("not kept"), "{output:?}");
    assert_eq!(output[1], "1048576");
}

#[test]
fn a_step_runs_as_the_user_that_it_names() {
    let bench = accounts();
    bench.write("passwd", "app:x:4242:4243::/srv/app:/bin/sh\n");
    let list = bench
        .node
        .release(1)
        .file("who.sh", 0o644, "echo $HOME $USER; pwd -P; cat ./who.sh | wc -l\n")
        .step("who", crate::common::run("who.sh"))
        .with(|step| {
            if let Action::Run { user, .. } = &mut step.action {
                *user = Some("app".into());
            }
        })
        .list();
    let report = bench.execute(&list);
    if rustix::process::geteuid().is_root() {
        assert_eq!(report.outcome("who"), Changed, "{}", report.message("who"));
        assert_eq!(report.output("who")[0], "/srv/app app");
        let call = bench
            .calls()
            .into_iter()
            .find(|call| call.starts_with("setpriv"))
            .unwrap();
        assert_eq!(call, "setpriv --reuid=4242 --regid=4243 --init-groups -- sh ./who.sh");
    } else {
        assert!(report.message("who").contains("only root"), "{}", report.message("who"));
    }
    bench.write("passwd", "");
    let report = bench.execute(&list);
    if report.outcome("who") == Failed {
        assert!(
            report.message("who").contains("there is no user app"),
            "{}",
            report.message("who")
        );
    }
}

#[test]
fn a_machine_that_is_not_healthy_in_time_has_not_converged() {
    let bench = Bench::new(false);
    let list = |number, within, check: &str| {
        bench
            .node
            .release(number)
            .file("check.sh", 0o755, format!("#!/bin/sh\n{check}\n"))
            .script("work", "true")
            .health(&["./check.sh"], within, 0)
            .health(&["true"], 0, 0)
            .list()
    };
    let report = bench.execute(&list(1, 0, "echo no answer; exit 7"));
    assert_eq!(report.outcome("work"), Changed);
    assert_eq!(report.outcome("health.1"), Failed);
    assert!(
        report.message("health.1").contains("no answer"),
        "{}",
        report.message("health.1")
    );
    assert!(!report.recap().converged());
    assert!(
        report.ended().iter().all(|(id, _)| id != "health.2"),
        "what comes behind is not asked"
    );
    // It gets well while it is watched.
    let slowly = "test -e $POTLUCK_ROOT/up && exit 0; touch $POTLUCK_ROOT/up; exit 1";
    let report = bench.execute(&list(2, 60, slowly));
    assert_eq!(report.outcome("health.1"), Unchanged, "{}", report.message("health.1"));
    assert_eq!(report.outcome("health.2"), Unchanged);
    assert!(report.recap().converged());
}

#[test]
fn a_machine_must_stay_healthy_for_as_long_as_the_check_says() {
    let bench = Bench::new(false);
    let once = "test -e $POTLUCK_ROOT/up && exit 1; touch $POTLUCK_ROOT/up";
    let list = bench
        .node
        .release(1)
        .file("check.sh", 0o755, format!("#!/bin/sh\n{once}\n"))
        .script("work", "true")
        .health(&["./check.sh"], 0, 60)
        .list();
    let report = bench.execute(&list);
    assert_eq!(report.outcome("health.1"), Failed, "it was well only once");
}

#[test]
fn health_is_not_asked_about_after_a_failure() {
    let bench = Bench::new(false);
    let list = bench
        .node
        .release(1)
        .script("bad", "exit 1")
        .health(&["true"], 0, 0)
        .list();
    let report = bench.execute(&list);
    assert!(report.ended().iter().all(|(id, _)| id != "health.1"));
}
