//! What is wrong with a text is told all at once, with its place and what was meant.

use super::*;

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
        "configuration.toml:10:14: on_failure cannot be \"stp\", but stop or continue or undo; did you mean \"stop\"?",
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
            "configuration.toml:3:1: unknown key \"elephant\" in step 1; known are id, needs, when, unless, undo, creates, timeout, \
         retry, on_failure, on_interrupt, notify, limits, run, args, env, exit, inputs, user",
            "configuration.toml:4:3: unknown key \"mammoths\" at the top; known are name, include, vars, step, health",
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
