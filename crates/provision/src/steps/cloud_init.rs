//! `cloud-init`: hands user-data to the cloud-init that is installed, module by module, once for its bytes.
//!
//! The instance's id stays, so that what cloud-init did when the machine was made (host keys, for instance) is not done again.

use potluck_model::list::{Entry, Step};
use potluck_model::plan::Forecast;
use potluck_model::trace::Outcome;

use super::{Kind, run};
use crate::engine::{Done, Engine, Fault, failed};
use crate::plan::Seen;
use crate::private;
use crate::state::Fact;

pub(crate) struct UserData<'a> {
    pub(crate) source: &'a str,
    pub(crate) modules: &'a [String],
}

impl Kind for UserData<'_> {
    fn concerns_machine(&self) -> Option<&'static str> {
        Some("user-data")
    }

    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        let setting = engine.setting;
        if let Some(done) = run::already(engine, run::once(setting.list, step, setting.root.path())) {
            return Ok(Seen::new(Forecast::Unchanged, done.message));
        }
        run::has_program(engine, "cloud-init")?;
        let message = format!("cloud-init would run {}", self.modules.join(", "));
        Ok(Seen::new(Forecast::Run, message))
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        let entry = engine
            .setting
            .list
            .entry(self.source)
            .filter(|entry| matches!(entry, Entry::File { .. }))
            .ok_or_else(|| failed(format!("{} is not a file of the list", self.source)))?;
        let setting = engine.setting;
        let key = run::once(setting.list, step, setting.root.path());
        if let Some(done) = run::already(engine, key) {
            return Ok(done);
        }
        let file = private::file(engine, entry)?;
        for module in self.modules {
            let mut command = engine.tool("cloud-init");
            command
                .arg("--file")
                .arg(&file)
                .args(["single", "--frequency", "always", "--name", module]);
            let ended = engine.execute(step, command, true)?;
            ended.ok(&format!("the module {module} of cloud-init"))?;
        }
        Ok(Done {
            fact: key.map(Fact::Ran),
            ..Done::new(Outcome::Changed, format!("cloud-init ran {}", self.modules.join(", ")))
        })
    }
}
