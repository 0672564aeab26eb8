//! A node for unit tests whose steps find stand-ins before the machine's programs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use potluck_model::list::List;
use potluck_model::plan::Plan;

use crate::common::{Node, Report};
use crate::job::Job;
use crate::machine::Machine;
use crate::plan;
use crate::process;

/// A node whose steps find stand-ins before the machine's programs, and that has the machine itself for its root if `machine`.
pub(crate) struct Bench {
    pub(crate) node: Node,
    machine: bool,
}

impl Bench {
    pub(crate) fn new(machine: bool) -> Self {
        let node = Node::new();
        fs::create_dir(node.temp.path().join("programs")).unwrap();
        Self { node, machine }
    }

    /// A program that notes its arguments in `calls` and then does what `script` says. `$STATE` is a directory of its own.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.path("programs").join(name);
        let state = self.path("");
        let state = state.display();
        let text = format!("#!/bin/sh\nSTATE={state}\necho \"{name} $*\" >> {state}/calls\n{script}\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.node.temp.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// What was called since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().map(ToOwned::to_owned).collect()
    }

    pub(crate) fn execute(&self, list: &List) -> Report {
        self.execute_job(&self.job(list))
    }

    pub(crate) fn execute_job(&self, job: &Job) -> Report {
        process::run(
            &self.node.dir(),
            job,
            None,
            &AtomicBool::new(false),
            Machine::default(),
            self.search(),
        )
        .unwrap();
        self.node.news()
    }

    /// What executing it would do.
    pub(crate) fn plan(&self, list: &List) -> Plan {
        let job = self.job(list);
        plan::plan_job(&self.node.dir(), &job, Machine::default(), self.search()).unwrap()
    }

    pub(crate) fn job(&self, list: &List) -> Job {
        fs::create_dir_all(self.node.dir()).unwrap();
        let mut job = self.node.job(list);
        if self.machine {
            job.machine_root = "/".into();
        }
        job
    }

    /// `PATH` of steps.
    fn search(&self) -> OsString {
        let mut search: OsString = self.path("programs").into_os_string();
        search.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        search
    }
}
