//! The rules of the format, through `resolve`.

use proptest::prelude::*;

use super::*;
use crate::list::{Action, EnvVar, ExitMeaning, ExitOutcome, OnFailure, OnInterrupt};

fn directory(path: &str) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::Directory,
    }
}

fn file(path: &str) -> TreeEntry {
    file_with(path, 0o644, b"")
}

fn file_with(path: &str, mode: u32, first: &[u8]) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::File {
            mode,
            size: first.len() as u64,
            first: first.to_vec(),
        },
    }
}

fn link(path: &str) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        kind: TreeKind::Link,
    }
}

fn sorted(mut tree: Vec<TreeEntry>) -> Vec<TreeEntry> {
    tree.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    tree
}

fn sample() -> Vec<TreeEntry> {
    sorted(vec![
        file("app.conf"),
        file("app.tar.gz"),
        directory("docs"),
        file("docs/a.md"),
        file("docs/b.md"),
        file("nginx-1.26.x86_64.rpm"),
        file("nginx_1.26_amd64.deb"),
        directory("site"),
        file("site/index.html"),
        link("site/latest"),
        file("site-old.html"),
        file("tune.sh"),
    ])
}

/// As the product does it, for files that have the text of `text_of`.
fn resolve(
    directory_name: &str,
    toml: Option<&str>,
    tree: &[TreeEntry],
    name: Option<&ConfigurationName>,
) -> Result<Resolved, Vec<ConfigurationError>> {
    super::resolve(directory_name, toml, tree, name, &text_of)
}

fn text_of(path: &str) -> Option<String> {
    let text = match path {
        "app.conf" => "listen {{ facts.hostname }}\n",
        "broken.j2" => "a\n{{ x\n",
        "user-data.yaml" => "#cloud-config\nruncmd: [true]\nwrite_files: []\n",
        "tune.sh" => "#!/bin/sh\nset -eu\ntrue\n",
        "careless.sh" => "#!/bin/bash\ncd /srv\nrm -rf x\n",
        _ => return None,
    };
    Some(text.to_owned())
}

fn resolved(toml: &str) -> Resolved {
    resolve("web-edge", Some(toml), &sample(), None).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The errors as they are printed.
fn errors(toml: &str) -> Vec<String> {
    let errors = resolve("web-edge", Some(toml), &sample(), None).expect_err("it should not resolve");
    errors.iter().map(ToString::to_string).collect()
}

fn ids(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|step| step.id.as_str()).collect()
}

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
fn what_is_wrong_with_newer_keys_is_told_with_its_place() {
    let toml = r#"
[vars]
share = 0.5
facts = "mine"
[[step]]
run = "tune.sh"
when = "facts.memroy_mb > 1"
retry = { times = 0, dely = "1s" }
limits = { memory = "512", cpu = "half" }
on_failure = "stp"
notify = ["nothing"]
[[step]]
service = "a b"
state = "runing"
[[step]]
link = "/x"
[[step]]
user = "-rf"
ssh_keys = ["oops"]
[[step]]
file = "app.conf"
dest = "/etc/app.conf"
purge = true
[[step]]
service = "x"
"#;
    let found = errors(toml);
    for (line, expected) in [
        "configuration.toml:3:9: variables are text, whole numbers",
        "configuration.toml:4:1: \"facts\" cannot be a variable",
        "configuration.toml:7:9: there is no fact \"memroy_mb\"; did you mean \"memory_mb\"?",
        "configuration.toml:8:19: a step that is tried again is so at least once",
        "configuration.toml:8:22: unknown key \"dely\" in retry; did you mean \"delay\"?",
        "configuration.toml:9:21: ",
        "configuration.toml:9:34: \"half\" is no share of a processor",
        "configuration.toml:10:14: on_failure cannot be \"stp\", but stop or continue; did you mean \"stop\"?",
        "configuration.toml:11:11: step \"tune\" notifies \"nothing\", and there is no such step",
        "configuration.toml:13:11: \"a b\" is no name here",
        "configuration.toml:14:9: state cannot be \"runing\", but started, stopped, restarted, reloaded",
        "configuration.toml:15:1: step 3 does not say what the link says",
        "configuration.toml:18:8: \"-rf\" is no name here",
        "configuration.toml:19:13: a key is one line of authorized_keys",
        "configuration.toml:23:9: purge is for directories",
        "configuration.toml:24:1: step 6 does not say what is to be with the service",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(
            found.get(line).is_some_and(|found| found.starts_with(expected)),
            "{line}: {expected}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 16, "{found:#?}");
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
fn what_is_notified_cannot_be_needed_by_what_comes_before() {
    let toml = "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nnotify = [\"b\"]\n\
                [[step]]\nid = \"b\"\nrun = \"tune.sh\"\n\
                [[step]]\nid = \"c\"\nrun = \"tune.sh\"\nneeds = [\"b\"]\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:11:10: step \"c\" needs \"b\", which is done at the end, because it is notified"]
    );
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
fn an_unknown_key_is_named_with_its_place_and_the_nearest_valid_one() {
    let toml = "[[step]]\nid = \"tune\"\nrun = \"tune.sh\"\nexti = { 2 = \"unchanged\" }\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:4:1: unknown key \"exti\" in step \"tune\"; did you mean \"exit\"?"]
    );
    let found = resolve("x", Some(toml), &sample(), None).unwrap_err();
    assert_eq!(found[0].at, Some(Position { line: 4, column: 1 }));
    assert_eq!(found[0].key.as_deref(), Some("exti"));
    assert_eq!(found[0].text.as_deref(), Some("exti"));
    assert_eq!(found[0].suggestion.as_deref(), Some("exit"));
}

#[test]
fn unknown_keys_without_a_near_one_say_which_are_known() {
    let toml = "[[step]]\nrun = \"tune.sh\"\nelephant = 3\n[[mammoths]]\nrun = [\"true\"]\n";
    assert_eq!(
        errors(toml),
        [
            "configuration.toml:3:1: unknown key \"elephant\" in step 1; known are id, needs, when, unless, creates, timeout, \
         retry, on_failure, on_interrupt, notify, limits, run, args, env, exit, inputs, user",
            "configuration.toml:4:3: unknown key \"mammoths\" at the top; known are name, vars, step, health",
        ]
    );
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_text() {
    let toml = r#"
name = "a b"
[[step]]
rnu = "tune.sh"
[[step]]
id = "one"
file = "sit"
dest = "srv"
mode = 644
timeout = "30"
[[step]]
id = "two"
run = "tune.sh --now"
needs = ["oen"]
dest = "/x"
exit = { 256 = "changed", 1 = "reboot-again" }
unless = "test -e /x"
env = { POTLUCK_ROOT = "/", "A=B" = "1", N = 3 }
[[step]]
file = "app.conf"
dest = "/etc/"
[[step]]
id = "three"
run = "site"
archive = "app.conf"
[[step]]
archive = "app.conf"
dest = "/a/../b"
creates = ""
[[step]]
package = ["app.conf", "missing.deb"]
"#;
    assert_eq!(
        errors(toml),
        [
            "configuration.toml:2:8: \"a b\" is not a configuration name: expected 1 to 64 characters out of a-z, A-Z, 0-9, \
         '-', '_' and '.', beginning with a letter or a digit",
            "configuration.toml:4:1: unknown key \"rnu\" in step 1; did you mean \"run\"?",
            "configuration.toml:7:8: there is no \"sit\" in the directory; did you mean \"site\"?",
            "configuration.toml:8:8: dest must be an absolute path without \"..\", \".\" or \"//\", not \"srv\"",
            "configuration.toml:9:8: a mode is octal and stands in quotes, as in mode = \"0644\"; without quotes TOML takes it \
         for a decimal number",
            "configuration.toml:10:11: \"30\" is not a duration: 30 has no unit; write 30s, 30m or 30h",
            "configuration.toml:13:7: there is no \"tune.sh --now\" in the directory; arguments go into args, after run = \
         \"tune.sh\"",
            "configuration.toml:14:10: step \"two\" needs \"oen\", and there is no such step; did you mean \"one\"?",
            "configuration.toml:15:1: dest belongs to steps with file or template or archive, and step \"two\" has run",
            "configuration.toml:16:10: \"256\" is no exit code: those go from 0 to 255",
            "configuration.toml:16:31: exit code 1 cannot mean \"reboot-again\", but changed, unchanged, failed",
            "configuration.toml:17:10: unless cannot be text: write for example unless = [\"./tune.sh\", \"--check\"]",
            "configuration.toml:18:9: \"POTLUCK_ROOT\" is set by Potluck itself",
            "configuration.toml:18:29: \"A=B\" is no name of an environment variable",
            "configuration.toml:18:46: env cannot be a number: write for example env = { LEVEL = \"3\" }",
            "configuration.toml:21:8: dest is the file's final path, with its name; \"/etc/\" is a directory",
            "configuration.toml:25:11: step \"three\" has run and archive: make a step of each, and order them with needs",
            "configuration.toml:27:11: \"app.conf\" cannot be unpacked: archives end in .tar, .tar.gz, .tgz, .tar.zst, .zip",
            "configuration.toml:28:8: dest must be an absolute path without \"..\", \".\" or \"//\", not \"/a/../b\"",
            "configuration.toml:29:11: creates must be an absolute path without \"..\", \".\" or \"//\", not \"\"",
            "configuration.toml:31:12: \"app.conf\" is no package: packages end in .deb or .rpm",
            "configuration.toml:31:24: there is no \"missing.deb\" in the directory",
        ]
    );
}

#[test]
fn what_is_not_toml_is_shown_with_its_place() {
    let found = errors("name = \"x\n[[step]]\nrun = \"tune.sh\"\n");
    assert!(
        found[0].starts_with("configuration.toml:1:") && found[0].contains("not valid TOML"),
        "{found:?}"
    );
    let found = errors("[[step]]\nfile = \"app.conf\"\ndest = \"/etc/app.conf\"\nmode = 0644\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("configuration.toml:4:") && found[0].contains("mode = \"0644\""),
        "{found:?}"
    );
}

#[test]
fn several_slips_in_the_toml_are_found_at_once_and_unknown_keys_with_them() {
    let found = errors("nmae = \"x\"\nname = \n[[step]]\nrun = tune.sh\nargs = [\n");
    assert!(found.len() >= 3, "{found:?}");
    assert!(found[0].contains("did you mean \"name\""), "{found:?}");
}

#[test]
fn a_configuration_without_steps_does_nothing_and_is_refused() {
    assert_eq!(
        errors("name = \"x\"\n"),
        ["configuration.toml:1:1: there is no [[step]]: with a configuration.toml, nothing is done that is not in it"]
    );
    assert_eq!(
        errors("[step]\nrun = \"tune.sh\"\n"),
        ["configuration.toml:1:1: each step begins with [[step]], in two pairs of brackets"]
    );
    assert_eq!(
        errors("[[steps]]\nrun = \"tune.sh\"\n")[0],
        "configuration.toml:1:1: there is no [[step]]: with a configuration.toml, nothing is done that is not in it"
    );
    assert!(errors("[[step]]\nid = \"x\"\n")[0].contains("does nothing: it needs one of run, file, template, directory, link, archive, package, service, user, ansible, cloud-init"));
}

#[test]
fn steps_keep_the_order_of_the_file_and_are_moved_behind_their_needs() {
    let toml = |needs: &str| {
        format!(
            "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nneeds = [{needs}]\n\
             [[step]]\nid = \"b\"\nrun = \"tune.sh\"\n[[step]]\nid = \"c\"\nrun = \"tune.sh\"\n"
        )
    };
    assert_eq!(ids(&resolved(&toml("")).steps), ["a", "b", "c"]);
    assert_eq!(ids(&resolved(&toml("\"b\", \"b\"")).steps), ["b", "a", "c"]);
    assert_eq!(ids(&resolved(&toml("\"c\"")).steps), ["b", "c", "a"]);
}

#[test]
fn a_circle_of_needs_is_named() {
    let toml = "[[step]]\nid = \"a\"\nrun = \"tune.sh\"\nneeds = [\"b\"]\n\
                [[step]]\nid = \"b\"\nrun = \"tune.sh\"\nneeds = [\"a\"]\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:4:10: steps need each other in a circle: a needs b needs a"]
    );
}

#[test]
fn two_steps_of_one_name_are_refused() {
    let toml = "[[step]]\nrun = \"tune.sh\"\n[[step]]\nrun = \"tune.sh\"\n";
    assert_eq!(
        errors(toml),
        ["configuration.toml:3:1: two steps are called \"tune\"; give it an id of its own"]
    );
}

#[test]
fn two_steps_that_place_the_same_path_are_refused() {
    let place = |source: &str, dest: &str| {
        format!(
            "[[step]]\nid = \"{}\"\nfile = \"{source}\"\ndest = \"{dest}\"\n",
            dest.len()
        )
    };
    let both = |a: &str, b: &str| format!("{a}{b}");
    assert_eq!(
        errors(&both(&place("site", "/srv"), &place("app.conf", "/srv/index.html"))),
        ["configuration.toml:8:8: step \"15\" places \"/srv/index.html\", and so does step \"4\""]
    );
    assert_eq!(
        errors(&both(&place("site", "/srv"), &place("app.conf", "/srv/index.html/x"))).len(),
        1
    );
    assert_eq!(
        errors(&both(&place("site", "/"), &place("app.conf", "/latest"))).len(),
        1
    );
    // One directory for both is fine.
    resolved(&both(&place("site", "/srv"), &place("docs", "/srv/")));
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

fn bare(tree: Vec<TreeEntry>) -> Result<Resolved, Vec<String>> {
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

proptest! {
    #[test]
    fn any_text_is_resolved_or_refused_with_a_place(text in "(\\[\\[step\\]\\]\n|run|file|dest|mode|exit|name|=| |\n|\"|'|\\{|\\}|tune.sh|0644|é|,|\\[|\\]){0,24}") {
        match resolve("x", Some(&text), &sample(), None) {
            Ok(resolved) => prop_assert!(!resolved.steps.is_empty()),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(error.at.is_some(), "{}", error);
                }
            }
        }
    }

    #[test]
    fn any_bare_directory_is_resolved_or_refused(names in prop::collection::btree_set("[0-9]{0,3}[-_.]?[a-zé#]{0,4}(\\.sh|\\.deb|\\.rpm|\\.tar|\\.zip|-1\\.rpm|_2\\.deb)?", 0..8)) {
        let tree = names.iter().filter(|name| !name.is_empty()).map(|name| file(name)).collect();
        if let Ok(resolved) = bare(tree) {
            let mut ids = ids(&resolved.steps);
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), resolved.steps.len());
            prop_assert!(resolved.warnings.is_empty());
        }
    }
}
