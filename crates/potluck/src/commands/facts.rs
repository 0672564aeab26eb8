//! `potluck facts`: what this machine says of itself.

use std::fmt::Write;
use std::path::PathBuf;

use potluck_model::facts::{FACTS, Fact, Facts};
use potluck_provision::{Machine, facts};

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Prints the facts of this machine, which conditions and templates may use
///
/// In a configuration: when = "facts.memory_mb >= 2048". In a template: {{ facts.hostname }}.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck facts
  potluck facts --json
  potluck facts --root /mnt/image       of the system in that directory"
)]
pub(crate) struct Args {
    /// The root of the machine that is looked at
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<Exit, Failure> {
    if !args.root.is_dir() {
        return Err(Failure::new(format!(
            "there is no directory {} (--root)",
            args.root.display()
        )));
    }
    let found = facts(&Machine::detect(), &args.root);
    output.result(&found, |_| text(&found))?;
    Ok(Exit::Ok)
}

fn text(facts: &Facts) -> String {
    let width = FACTS.iter().map(|fact| fact.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, fact) in &facts.0 {
        let value = match fact {
            Fact::Text(text) => format!("{text:?}"),
            Fact::Number(number) => number.to_string(),
            Fact::Flag(flag) => flag.to_string(),
        };
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_printed_as_conditions_compare_them() {
        let mut facts = Facts::default();
        facts.set("hostname", Fact::Text("edge-3".into()));
        facts.set("memory_mb", Fact::Number(4_096));
        assert_eq!(
            text(&facts),
            "hostname              \"edge-3\"\nmemory_mb             4096"
        );
    }
}
