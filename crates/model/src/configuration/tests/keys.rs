//! What each key comes to.

use super::*;
use crate::list::{Action, EnvVar, ExitMeaning, ExitOutcome, OnFailure, OnInterrupt};

#[test]
fn every_key_reaches_the_list() {
    let resolved = resolved(
        r#"
        name = "edge"

        [[step]]
        package = ["nginx_1.26_amd64.deb", "nginx-1.26.x86_64.rpm"]

        [[step]]
        id = "conf"
        file = "app.conf"
        dest = "/etc/app.conf"
        mode = "0640"
        keep = true
        creates = "/etc/app"

        [[step]]
        file = "site/"
        dest = "/srv/www/"

        [[step]]
        archive = "app.tar.gz"
        dest = "/opt/app"

        [[step]]
        run = "./tune.sh"
        args = ["--now"]
        env = { LEVEL = "3", A = "" }
        needs = ["nginx", "conf"]
        unless = ["./tune.sh", "--check"]
        inputs = ["site", "docs"]
        timeout = "30m"
        exit = { 10 = "failed", 2 = "unchanged", 0 = "changed" }
        "#,
    );
    assert_eq!(resolved.name.as_str(), "edge");
    assert_eq!(ids(&resolved.steps), ["nginx", "conf", "site", "app", "tune"]);
    assert_eq!(
        resolved.warnings,
        ["site-old.html is used by no step (if a script reads it, name it in the inputs of that step)"]
    );
    let [package, conf, site, app, tune] = &resolved.steps[..] else {
        unreachable!("five steps");
    };
    assert_eq!(package.timeout_seconds, 3_600);
    assert_eq!(
        package.action,
        Action::Package {
            sources: vec!["nginx_1.26_amd64.deb".into(), "nginx-1.26.x86_64.rpm".into()]
        }
    );
    assert_eq!(conf.creates.as_deref(), Some("/etc/app"));
    assert_eq!(
        conf.action,
        Action::File {
            source: "app.conf".into(),
            dest: "/etc/app.conf".into(),
            mode: Some(0o640),
            keep: true,
            purge: false
        }
    );
    assert_eq!(
        site.action,
        Action::File {
            source: "site".into(),
            dest: "/srv/www".into(),
            mode: None,
            keep: false,
            purge: false
        }
    );
    assert_eq!(
        app.action,
        Action::Archive {
            source: "app.tar.gz".into(),
            dest: "/opt/app".into()
        }
    );
    assert_eq!(tune.timeout_seconds, 1_800);
    assert_eq!(tune.needs, ["nginx".parse().unwrap(), "conf".parse().unwrap()]);
    assert_eq!(tune.unless, Some(vec!["./tune.sh".into(), "--check".into()]));
    let var = |name: &str, value: &str| EnvVar {
        name: name.into(),
        value: value.into(),
    };
    let exit = |code, means| ExitMeaning { code, means };
    assert_eq!(
        tune.action,
        Action::Run {
            source: "tune.sh".into(),
            args: vec!["--now".into()],
            env: vec![var("A", ""), var("LEVEL", "3")],
            exit: vec![
                exit(0, ExitOutcome::Changed),
                exit(2, ExitOutcome::Unchanged),
                exit(10, ExitOutcome::Failed)
            ],
            inputs: vec!["site".into(), "docs".into()],
            user: None,
        }
    );
}

#[test]
fn every_kind_of_step_reaches_the_list() {
    let resolved = resolved(
        r#"
        [vars]
        workers = 4
        names = ["a", "b"]
        limit = { soft = 10 }

        [[step]]
        template = "app.conf"
        dest = "/etc/listen.conf"
        notify = ["app.service"]
        when = "facts.memory_mb >= 2048"

        [[step]]
        service = "app"
        state = "reloaded"

        [[step]]
        directory = "/var/lib/app/"
        mode = "0750"
        owner = "app"

        [[step]]
        link = "/opt/current"
        target = "../srv"

        [[step]]
        user = "app"
        uid = 900
        groups = ["adm"]
        home = "/var/lib/app"
        shell = "/bin/sh"
        ssh_keys = ["ssh-ed25519 AAAA ops"]
        system = true

        [[step]]
        id = "as-user"
        run = "tune.sh"
        user = "app"
        retry = { times = 5, delay = "1m" }
        limits = { memory = "512MiB", cpu = "50%" }
        on_failure = "continue"
        on_interrupt = "fail"

        [[step]]
        ansible = "docs/a.md"
        args = ["--diff"]

        [[step]]
        file = "site"
        dest = "/srv/www"
        purge = true
        "#,
    );
    assert_eq!(
        ids(&resolved.steps),
        [
            "app.conf",
            "app",
            "current",
            "user-app",
            "as-user",
            "a",
            "site",
            "app.service"
        ],
        "what is notified comes last"
    );
    assert_eq!(
        serde_json::to_value(&resolved.settings).unwrap(),
        serde_json::json!({"vars": {"workers": 4, "names": ["a", "b"], "limit": {"soft": 10}}})
    );
    let [template, directory, link, user, run, play, site, service] = &resolved.steps[..] else {
        unreachable!("eight steps");
    };
    assert_eq!(template.notify, std::slice::from_ref(&service.id));
    assert_eq!(template.when.as_deref(), Some("facts.memory_mb >= 2048"));
    assert!(matches!(&directory.action, Action::Directory { dest, mode: Some(0o750), .. } if dest == "/var/lib/app"));
    assert!(matches!(&link.action, Action::Link { dest, target } if dest == "/opt/current" && target == "../srv"));
    assert!(matches!(
        &user.action,
        Action::User {
            uid: Some(900),
            system: true,
            ..
        }
    ));
    assert!(matches!(&run.action, Action::Run { user: Some(user), .. } if user == "app"));
    assert_eq!(run.retry.map(|retry| (retry.times, retry.delay_seconds)), Some((5, 60)));
    let limits = run.limits.unwrap();
    assert_eq!((limits.memory_bytes, limits.cpu_percent), (Some(512 << 20), Some(50)));
    assert_eq!(
        (run.on_failure, run.on_interrupt),
        (OnFailure::Continue, OnInterrupt::Fail)
    );
    assert!(matches!(&play.action, Action::Ansible { args, .. } if args == &["--diff"]));
    assert!(matches!(&site.action, Action::File { purge: true, .. }));
    assert!(matches!(&service.action, Action::Service { name, .. } if name == "app.service"));
}

#[test]
fn health_checks_reach_the_list_and_what_is_wrong_with_them_is_told() {
    let step = "[[step]]\nrun = \"tune.sh\"\n";
    let toml = format!(
        "{step}[[health]]\nrun = [\"./site-old.html\"]\nwithin = \"2m\"\nstable_for = \"10s\"\n[[health]]\nrun = [\"true\"]\n"
    );
    let resolved = resolved(&toml);
    assert_eq!(
        serde_json::to_value(&resolved.settings.health).unwrap(),
        serde_json::json!([
            {"run": ["./site-old.html"], "within_seconds": 120, "stable_for_seconds": 10},
            {"run": ["true"], "within_seconds": 60},
        ])
    );
    assert!(
        !resolved.warnings.iter().any(|warning| warning.starts_with("site-old")),
        "{:?}",
        resolved.warnings
    );
    let toml = format!("{step}[[health]]\nrnu = [\"x\"]\nwithin = \"2\"\n[[health]]\nrun = \"curl\"\n");
    let found = errors(&toml);
    for (line, expected) in [
        "configuration.toml:3:1: the health check does nothing",
        "configuration.toml:4:1: unknown key \"rnu\" in a health check; did you mean \"run\"?",
        "configuration.toml:5:10: ",
        "configuration.toml:7:7: run cannot be text",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(
            found.get(line).is_some_and(|found| found.starts_with(expected)),
            "{line}\n{found:#?}"
        );
    }
}

#[test]
fn a_template_is_read_when_it_is_published() {
    let mut tree = sample();
    tree.push(file("broken.j2"));
    tree.push(file("user-data.yaml"));
    let tree = sorted(tree);
    let toml = "[[step]]\ntemplate = \"broken.j2\"\ndest = \"/x\"\n\
                [[step]]\ntemplate = \"docs/a.md\"\ndest = \"/y\"\n";
    let errors = resolve("x", Some(toml), &tree, None).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(errors[0].starts_with("broken.j2:"), "{errors:?}");
    assert!(
        errors[1].starts_with("configuration.toml:5:12: \"docs/a.md\" is no template"),
        "{errors:?}"
    );
    let toml = "[[step]]\ncloud-init = \"user-data.yaml\"\n";
    let resolved = resolve("x", Some(toml), &tree, None).unwrap();
    assert!(matches!(
        &resolved.steps[0].action,
        Action::CloudInit { modules, .. } if modules == &["write_files", "runcmd", "scripts_user"]
    ));
}

#[test]
fn scripts_that_go_on_after_an_error_are_warned_about() {
    let mut tree = sample();
    tree.push(file("careless.sh"));
    let tree = sorted(tree);
    let toml = "[[step]]\nrun = \"careless.sh\"\n[[step]]\nrun = \"tune.sh\"\n";
    let warnings = resolve("x", Some(toml), &tree, None).unwrap().warnings;
    let about: Vec<&String> = warnings.iter().filter(|warning| warning.contains("set -e")).collect();
    assert_eq!(about.len(), 1, "{warnings:?}");
    assert!(about[0].starts_with("careless.sh:1:1: "), "{about:?}");
}

#[test]
fn the_name_given_goes_before_the_one_written_and_that_before_the_directorys() {
    let step = "[[step]]\nrun = 'tune.sh'";
    let named = format!("name = 'written'\n{step}");
    let given = "given".parse().unwrap();
    let name = |toml: &str, given| resolve("directory", Some(toml), &sample(), given).unwrap().name;
    assert_eq!(name(&named, Some(&given)).as_str(), "given");
    assert_eq!(name(&named, None).as_str(), "written");
    assert_eq!(name(step, None).as_str(), "directory");
    let fault = resolve("my files", Some(step), &sample(), None).unwrap_err();
    assert!(fault[0].to_string().ends_with("give one with --name"), "{}", fault[0]);
}

#[test]
fn files_that_no_step_uses_are_warned_about_once_for_a_directory() {
    let resolved = resolved(
        "[[step]]\nfile = \"site/index.html\"\ndest = \"/i\"\n[[step]]\narchive = \"app.tar.gz\"\ndest = \"/\"\n",
    );
    assert_eq!(
        resolved.warnings,
        [
            "app.conf is used by no step",
            "docs/ (2 files) is used by no step",
            "nginx-1.26.x86_64.rpm is used by no step",
            "nginx_1.26_amd64.deb is used by no step",
            "site-old.html is used by no step",
            "site/latest is used by no step",
            "tune.sh is used by no step",
        ]
    );
}
