//! `template`: places what a template renders to, with this machine's facts and the configuration's variables.

use potluck_model::list::{Entry, Step};
use potluck_model::template::{Subject, TEMPLATE_BYTES_MAX, render};

use super::Kind;
use super::placing::{self, Wanted, place};
use crate::engine::{Done, Engine, Fault, failed};
use crate::plan::Seen;

pub(crate) struct Template<'a> {
    pub(crate) source: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) mode: Option<u32>,
    pub(crate) keep: bool,
}

impl Kind for Template<'_> {
    fn plan(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Seen, Fault> {
        let (text, mode) = self.render(engine)?;
        let bytes = text.as_bytes();
        placing::plan(engine, step, self.dest, &Wanted::File { bytes, mode }, self.keep)
    }

    fn run(&self, engine: &mut Engine<'_>, step: &Step) -> Result<Done, Fault> {
        let (text, mode) = self.render(engine)?;
        let bytes = text.as_bytes();
        place(engine, step, self.dest, &Wanted::File { bytes, mode }, self.keep)
    }
}

impl Template<'_> {
    /// The text, and the mode that its file gets.
    fn render(&self, engine: &mut Engine<'_>) -> Result<(String, u32), Fault> {
        let setting = engine.setting;
        let source = self.source;
        let Some(Entry::File { digest, size, mode, .. }) = setting.list.entry(source) else {
            return Err(failed(format!("{source} is not a file of the list")));
        };
        if *size > TEMPLATE_BYTES_MAX as u64 {
            return Err(failed(format!(
                "{source} has {size} bytes; a template has at most {TEMPLATE_BYTES_MAX}"
            )));
        }
        let mut bytes = Vec::new();
        engine
            .contents
            .copy(*digest, *size, &mut bytes)
            .map_err(|error| failed(format!("{source}: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| failed(format!("{source} is not text (UTF-8)")))?;
        let node = setting.node.to_string();
        let subject = Subject {
            facts: engine.facts(),
            node: &node,
            configuration: setting.list.configuration.as_str(),
            release: setting.list.release,
        };
        let rendered = render(&text, &setting.list.settings, &subject)
            .map_err(|error| failed(format!("{source} does not render: {error}")))?;
        Ok((rendered, self.mode.unwrap_or(*mode)))
    }
}
