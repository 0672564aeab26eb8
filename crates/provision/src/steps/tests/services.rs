//! Units of systemd, against a stand-in for `systemctl`; and what is notified.

use std::fs;

use potluck_model::list::{Action, List, ServiceState};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Skipped, Unchanged};

use crate::bench::Bench;

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
