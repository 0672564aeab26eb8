//! Real things in a real Debian: packages that need each other, a playbook, user-data, a service and a health check, in a root
//! that debootstrap makes from the machine's own package mirror.
//!
//! Needs root, debootstrap and that mirror, and is for `just long`: `cargo test --test debian -- --ignored`. Where one of them
//! is lacking, it says so and fails. `POTLUCK_DEBIAN_ROOT` names a root that was made before, with all that `Debian::make` puts
//! into it; it is copied. No systemd runs in there: a stand-in for systemctl records how it is called.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod executor;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, Report};
use executor::{PROGRAM, finish};
use potluck_model::list::{Action, List, ServiceState};
use potluck_model::trace::Outcome::{Blocked, Changed, Failed, Skipped, Unchanged};
use potluck_provision::{Executor, Job, Position, Record, Tail};

const SUITE: &str = "bookworm";
/// What is in there beside the base.
const PROGRAMS: [&str; 2] = ["ansible-core", "cloud-init"];
/// The second needs the first.
const PACKAGES: [&str; 2] = ["libsodium23", "minisign"];
/// Notes its arguments, and finds every unit there and running.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >> /var/log/systemctl.calls\n\
    case $* in *LoadState*) echo loaded;; *ActiveState*) echo active;; *UnitFileState*) echo enabled;; *show*) echo no;; esac\n";

/// A root, and what is mounted in it.
struct Debian {
    root: PathBuf,
    mounted: Vec<PathBuf>,
    _temp: tempfile::TempDir,
}

fn tool(program: &str, args: &[&OsStr]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output();
    let output = output.unwrap_or_else(|error| panic!("there is no Debian to try: cannot start {program}: {error}"));
    let said = [output.stdout.as_slice(), output.stderr.as_slice()]
        .map(String::from_utf8_lossy)
        .concat();
    let end: Vec<&str> = said.lines().rev().take(5).collect();
    assert!(
        output.status.success(),
        "there is no Debian to try (it takes root, debootstrap and a package mirror that is reached): {program} {args:?}: {end:?}"
    );
    said
}

impl Debian {
    fn make() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        let made = std::env::var_os("POTLUCK_DEBIAN_ROOT");
        match &made {
            Some(made) => tool("cp", &["-a".as_ref(), made, root.as_os_str()]),
            None => tool(
                "debootstrap",
                &["--variant=minbase".as_ref(), SUITE.as_ref(), root.as_os_str()],
            ),
        };
        let mut debian = Self {
            root,
            mounted: Vec::new(),
            _temp: temp,
        };
        let proc = debian.root.join("proc");
        tool(
            "mount",
            &["-t".as_ref(), "proc".as_ref(), "proc".as_ref(), proc.as_os_str()],
        );
        debian.mounted.push(proc);
        if made.is_none() {
            let install = ["apt-get", "-q", "-y", "--no-install-recommends", "install"];
            debian.inside(&[&install[..], &PROGRAMS].concat());
            debian.make_instance();
            for package in PACKAGES {
                debian.inside(&[
                    "sh",
                    "-c",
                    &format!("cd /var/cache/apt && apt-get -q download {package}"),
                ]);
            }
        }
        let systemctl = debian.root.join("usr/local/sbin/systemctl");
        fs::write(&systemctl, SYSTEMCTL).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        debian
    }

    /// As on a machine on which cloud-init ran when that was made; it looks for nothing on the network, and no module of it runs.
    fn make_instance(&self) {
        let seed = self.root.join("var/lib/cloud/seed/nocloud");
        fs::create_dir_all(&seed).unwrap();
        fs::write(seed.join("meta-data"), "instance-id: made\n").unwrap();
        fs::write(seed.join("user-data"), "#cloud-config\n").unwrap();
        let settings = "datasource_list: [NoCloud]\ncloud_init_modules: []\n";
        fs::write(self.root.join("etc/cloud/cloud.cfg.d/90-made.cfg"), settings).unwrap();
        self.inside(&["cloud-init", "init", "--local"]);
        self.inside(&["cloud-init", "init"]);
    }

    fn inside(&self, command: &[&str]) -> String {
        let words = command.iter().map(OsStr::new);
        let all: Vec<&OsStr> = std::iter::once(self.root.as_os_str()).chain(words).collect();
        tool("chroot", &all)
    }

    /// The same directory at the same path inside.
    fn share(&mut self, path: &Path) {
        let inside = self.root.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(&inside).unwrap();
        tool("mount", &["--bind".as_ref(), path.as_os_str(), inside.as_os_str()]);
        self.mounted.push(inside);
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| format!("({error})"))
    }

    fn package(&self, name: &str) -> PathBuf {
        let mut found = fs::read_dir(self.root.join("var/cache/apt"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let begins = format!("{name}_");
        found
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&begins))
            .unwrap()
    }

    /// The installed version of a package.
    fn version(&self, name: &str) -> String {
        self.inside(&["dpkg-query", "--show", "--showformat=${Version}", name])
    }

    /// A newer build of a package: its own bytes with another number.
    fn rebuilt(&self, name: &str) -> Vec<u8> {
        let unpacked = self.root.join("rebuilt");
        let package = self.root.join("rebuilt.deb");
        tool(
            "dpkg-deb",
            &["-R".as_ref(), self.package(name).as_os_str(), unpacked.as_os_str()],
        );
        let control = unpacked.join("DEBIAN/control");
        let text = fs::read_to_string(&control).unwrap();
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                if line.starts_with("Version: ") {
                    format!("{line}+potluck1")
                } else {
                    line.to_owned()
                }
            })
            .collect();
        fs::write(&control, lines.join("\n") + "\n").unwrap();
        tool("dpkg-deb", &["-b".as_ref(), unpacked.as_os_str(), package.as_os_str()]);
        fs::read(package).unwrap()
    }

    fn execute(&self, node: &Node, list: &List) -> Report {
        let mut job: Job = node.job(list);
        job.machine_root = "/".into();
        let program = node.temp.path().join("execute-program");
        if !program.exists() {
            fs::copy(PROGRAM, &program).unwrap();
        }
        let args = [self.root.as_os_str(), program.as_os_str()];
        finish(
            node,
            Executor::start(Path::new("/usr/sbin/chroot"), &args, &node.dir(), &job).unwrap(),
        )
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        for path in self.mounted.iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(path).output();
        }
    }
}

fn release(debian: &Debian, node: &Node, number: u64, content: u64, healthy: bool) -> List {
    let minisign = match content {
        1 => fs::read(debian.package(PACKAGES[1])).unwrap(),
        _ => debian_rebuilt(debian),
    };
    let playbook = format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.copy:\n        dest: /etc/of-ansible\n        \
         content: \"content {content}\\n\"\n"
    );
    let user_data =
        format!("#cloud-config\nwrite_files:\n  - path: /etc/of-cloud-init\n    content: content {content}\n");
    let package = |source: &str| Action::Package {
        sources: vec![source.to_owned()],
    };
    node.release(number)
        .file("libsodium23.deb", 0o644, fs::read(debian.package(PACKAGES[0])).unwrap())
        .file("minisign.deb", 0o644, minisign)
        .step("libsodium23", package("libsodium23.deb"))
        .step("minisign", package("minisign.deb"))
        .with(|step| step.needs = vec!["libsodium23".parse().unwrap()])
        .file("play.yml", 0o644, playbook)
        .step(
            "play",
            Action::Ansible {
                source: "play.yml".into(),
                args: vec![],
                env: vec![],
            },
        )
        .file("user-data", 0o644, user_data)
        .step(
            "user-data",
            Action::CloudInit {
                source: "user-data".into(),
                modules: vec!["write_files".into()],
            },
        )
        .file("conf", 0o644, format!("content {content}\n"))
        .place("conf", "conf", "/etc/app.conf")
        .with(|step| step.notify = vec!["app".parse().unwrap()])
        .step(
            "app",
            Action::Service {
                name: "app.service".into(),
                state: Some(ServiceState::Reloaded),
                enabled: None,
            },
        )
        .health(&[if healthy { "minisign" } else { "false" }, "-v"], 1, 0)
        .list()
}

/// Built once: two builds of the same differ in their times.
fn debian_rebuilt(debian: &Debian) -> Vec<u8> {
    let kept = debian.root.join("rebuilt.deb");
    if kept.exists() {
        fs::read(kept).unwrap()
    } else {
        debian.rebuilt(PACKAGES[1])
    }
}

#[test]
#[ignore = "needs root, debootstrap and a package mirror: just long"]
fn a_debian_is_provisioned_left_alone_upgraded_broken_and_brought_back() {
    let mut debian = Debian::make();
    let node = Node::new();
    debian.share(node.temp.path());
    let is = |debian: &Debian, content: u64| {
        let text = format!("content {content}");
        for path in ["etc/of-ansible", "etc/of-cloud-init", "etc/app.conf"] {
            assert_eq!(debian.read(path).trim(), text, "{path}");
        }
    };

    let first = release(&debian, &node, 1, 1, true);
    let report = debian.execute(&node, &first);
    assert!(report.recap().converged(), "{:?}", report.records);
    assert_eq!(report.recap().changed, 6, "{:?}", report.ended());
    is(&debian, 1);
    let version = debian.version("minisign");
    let calls = debian.read("var/log/systemctl.calls");
    assert!(
        calls
            .lines()
            .any(|call| call.contains("reload") && call.contains("app.service")),
        "{calls}"
    );

    let report = debian.execute(&node, &first);
    assert_eq!(report.recap().changed, 0, "{:?}", report.ended());
    assert_eq!((report.outcome("play"), report.outcome("app")), (Unchanged, Skipped));
    assert!(report.recap().converged());

    let report = debian.execute(&node, &release(&debian, &node, 2, 2, true));
    assert!(report.recap().converged(), "{:?}", report.records);
    assert_eq!(
        (report.outcome("libsodium23"), report.outcome("minisign")),
        (Unchanged, Changed)
    );
    assert_eq!(debian.version("minisign"), format!("{version}+potluck1"));
    is(&debian, 2);

    // Not healthy; and a package whose bytes are none.
    let report = debian.execute(&node, &release(&debian, &node, 3, 3, false));
    assert_eq!(report.outcome("health.1"), Failed);
    is(&debian, 3);
    let broken = node
        .release(4)
        .file("broken_1.0_amd64.deb", 0o644, "no package")
        .step(
            "broken",
            Action::Package {
                sources: vec!["broken_1.0_amd64.deb".into()],
            },
        )
        .script("behind", "touch /etc/behind")
        .list();
    let report = debian.execute(&node, &broken);
    assert_eq!((report.outcome("broken"), report.outcome("behind")), (Failed, Blocked));
    assert!(
        report.message("broken").contains("not a package"),
        "{}",
        report.message("broken")
    );
    assert!(!debian.root.join("etc/behind").exists());

    // What was before is assigned again: the package goes back, too.
    let report = debian.execute(&node, &release(&debian, &node, 5, 1, true));
    assert!(report.recap().converged(), "{:?}", report.records);
    assert_eq!(debian.version("minisign"), version);
    assert_eq!(debian.read("etc/of-ansible"), "content 1\n");
    assert_eq!(debian.read("etc/app.conf"), "content 1\n");
    // User-data is handed over once for its bytes, and these were.
    assert_eq!(report.outcome("user-data"), Unchanged);
}
