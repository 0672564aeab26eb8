//! Users, against stand-ins for shadow's tools.

use std::fs;

use potluck_model::list::Action;
use potluck_model::trace::Outcome::{Changed, Failed, Unchanged};

use crate::bench::Bench;

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
