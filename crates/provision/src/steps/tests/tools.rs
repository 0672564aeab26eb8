//! Steps that hand files to programs that are installed, against stand-ins that record how they are called.

use potluck_model::list::Action;
use potluck_model::trace::Outcome::{Changed, Failed, Unchanged};

use crate::bench::Bench;

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
