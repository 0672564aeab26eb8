//! Shims of real commands: this program is the shim, too.

use std::process::Command;

use super::*;
use crate::command::Exit;
use crate::proc::Stat;

/// The variable that makes a test the shim: its directory.
pub(super) const PLACE: &str = "POTLUCK_TEST_SHIM";

/// Not a rule, but what the other tests start.
#[test]
fn stays_with_a_command_if_it_is_told_where() {
    if let Some(place) = std::env::var_os(PLACE) {
        let done = shim_main(Path::new(&place));
        std::process::exit(i32::from(done != std::process::ExitCode::SUCCESS));
    }
}

fn order(script: &str, timeout: Duration) -> Order {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
    Order::new(&command, timeout, None, false)
}

const LONG: Duration = Duration::from_secs(600);

/// How a script ended, and what it printed.
fn follow(shim: &mut Shim) -> (End, Vec<String>) {
    let mut lines = Vec::new();
    let end = shim.follow(&mut |_, line| {
        lines.push(line);
        Ok(())
    });
    (end.unwrap().unwrap(), lines)
}

fn run(script: &str, timeout: Duration) -> (Exit, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let (end, lines) = follow(&mut Shim::start(dir.path(), 1, &order(script, timeout)).unwrap());
    match end {
        End::Ended { exit, .. } => (exit, lines),
        other => panic!("{other:?}"),
    }
}

fn runs(number: &str) -> bool {
    Stat::of(number.trim().parse().unwrap()).is_some_and(|stat| !stat.is_over())
}

fn end_daemon(number: &str) {
    let number = Pid::from_raw(number.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn the_true_exit_code_or_signal_is_noted() {
    assert_eq!(
        run("echo a; echo b >&2; exit 7", LONG),
        (Exit::Code(7), vec!["a".into(), "b".into()])
    );
    assert_eq!(run("kill -9 $$", LONG).0, Exit::Signal(9));
    assert_eq!(run("kill -15 $$", LONG).0, Exit::Signal(15));
}

#[test]
fn what_does_not_start_is_noted_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let order = Order::new(&Command::new("/nowhere/at/all"), LONG, None, false);
    let (end, lines) = follow(&mut Shim::start(dir.path(), 1, &order).unwrap());
    assert!(matches!(end, End::NotStarted { code: Some(2), .. }), "{end:?}");
    assert_eq!(lines, [""; 0]);
}

#[test]
fn a_timeout_reaches_other_groups_other_sessions_and_daemons() {
    // A group of its own (timeout makes one), a session of its own, and a daemon whose parent is gone; all ignore SIGTERM.
    let script = "trap '' TERM
        timeout 2001 sleep 1001 & echo $!
        setsid sleep 1002 & echo $!
        (setsid sh -c 'echo $$; exec sleep 1003' &)
        sleep 1004";
    let (exit, lines) = run(script, Duration::from_secs(1));
    assert_eq!(exit, Exit::TimedOut);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let left: Vec<&String> = lines.iter().filter(|number| runs(number)).collect();
    assert!(left.is_empty(), "{left:?} of {lines:?} still run");
}

#[test]
fn a_daemon_of_a_command_that_ended_well_is_left_running() {
    let (exit, lines) = run(
        "(setsid sh -c 'echo $$; exec sleep 1005 >/dev/null 2>&1' &); sleep 0.3",
        LONG,
    );
    assert_eq!(exit, Exit::Code(0));
    assert!(runs(&lines[0]), "{lines:?}");
    end_daemon(&lines[0]);
}

#[test]
fn closed_descriptors_and_a_removed_directory_change_nothing() {
    assert_eq!(run("exec <&- >&- 2>&-; sleep 0.2; exit 3", LONG).0, Exit::Code(3));
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    let gone = dir.path().join("gone");
    fs::create_dir(&gone).unwrap();
    command
        .args(["-c", "rmdir ../gone; echo still here; exit 4"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir(&gone);
    let order = Order::new(&command, LONG, None, false);
    let (end, lines) = follow(&mut Shim::start(dir.path(), 1, &order).unwrap());
    assert!(
        matches!(
            end,
            End::Ended {
                exit: Exit::Code(4),
                ..
            }
        ),
        "{end:?}"
    );
    assert_eq!(lines, ["still here"]);
}

#[test]
fn a_command_gets_no_descriptors_but_its_own() {
    let (_, lines) = run("ls -1 /proc/$$/fd", LONG);
    let known = ["0", "1", "2"];
    let others: Vec<&String> = lines.iter().filter(|line| !known.contains(&line.as_str())).collect();
    // The shell may hold the script open, above ten.
    assert!(
        others.iter().all(|line| line.parse::<u32>().is_ok_and(|fd| fd == 10)),
        "{lines:?}"
    );
}

#[test]
fn one_is_found_again_while_it_runs_and_when_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "echo one; while ! test -e {}/go; do sleep 0.05; done; echo two; exit 5",
        dir.path().display()
    );
    assert!(Shim::find(dir.path(), 1).is_none());
    drop(Shim::start(dir.path(), 1, &order(&script, LONG)).unwrap());
    assert!(any_lives(dir.path()));
    let mut found = Shim::find(dir.path(), 1).unwrap();
    clean_up(dir.path());
    fs::write(dir.path().join("go"), "").unwrap();
    let (end, lines) = follow(&mut found);
    assert!(matches!(end, End::Ended { exit: Exit::Code(5), ref last_line } if last_line == "two"));
    assert_eq!(lines, ["one", "two"]);
    while any_lives(dir.path()) {}
    let again = follow(&mut Shim::find(dir.path(), 1).unwrap());
    assert_eq!(again, (end, lines));
    clean_up(dir.path());
    assert!(Shim::find(dir.path(), 1).is_none());
}

#[test]
fn a_shim_that_was_killed_leaves_no_end_and_what_it_leaves_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo $$; timeout 2006 sleep 1006 & echo $!; wait";
    let mut shim = Shim::start(dir.path(), 1, &order(script, LONG)).unwrap();
    let number = Pid::from_child(shim.child.as_ref().unwrap());
    let mut lines = Vec::new();
    let end = shim.follow(&mut |_, line| {
        lines.push(line);
        if lines.len() == 2 {
            rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
        }
        Ok(())
    });
    assert_eq!(end.unwrap(), None);
    assert!(lines.iter().all(|number| runs(number)), "{lines:?}");
    assert!(end_left(dir.path(), 1).unwrap());
    assert!(!lines.iter().any(|number| runs(number)), "{lines:?}");
    assert!(!end_left(dir.path(), 1).unwrap());
}

#[test]
fn a_flood_is_bounded_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut shim = Shim::start(dir.path(), 1, &order("yes | head -c 30000000", LONG)).unwrap();
    let (end, lines) = follow(&mut shim);
    assert!(matches!(
        end,
        End::Ended {
            exit: Exit::Code(0),
            ..
        }
    ));
    assert_eq!(lines.len(), command_lines() + 1);
    let kept = fs::metadata(shim.dir.join(name::OUTPUT)).unwrap().len();
    assert!(kept < 2 << 20, "{kept}");
}

fn command_lines() -> usize {
    crate::command::OUTPUT_LINES_MAX
}
