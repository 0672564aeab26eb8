//! `potluck plan`: what the release that is assigned would do on this machine.

use std::fmt::Write;

use potluck_model::plan::{Forecast, Plan, PlannedStep};

use crate::arguments::Global;
use crate::exit::{Exit, Failure, chain};
use crate::output::Output;
use crate::settings;

/// Shows what the assigned release would do on this machine, and changes nothing
///
/// It is about the release that this machine's agent had executed last, or would have: while the
/// fleet is halted, releases are fetched and not executed. Text files are shown as unified diffs, but
/// not those that their mode keeps from others. Guards are asked without network and privileges;
/// where that cannot be, the step is unknown.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck plan
  potluck plan --detailed-exit-code     ends with 2 if something would be done
  potluck plan --data ./node --json"
)]
pub(crate) struct Args {
    /// End with 2 if something would be done, or may be
    #[arg(long)]
    detailed_exit_code: bool,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let data = match global.data.clone() {
        Some(data) => data,
        None => settings::default_data("node")?,
    };
    let plan = potluck_provision::plan(&data.join("execute")).map_err(|error| {
        Failure::new(format!(
            "planning with what lies in {}: {}",
            data.display(),
            chain(&error)
        ))
        .advice("run this where the agent runs, as its user, with --data as the agent has it")
    })?;
    output.result(&plan, |_| text(&plan))?;
    Ok(if args.detailed_exit_code && plan.differs() {
        Exit::Changed
    } else {
        Exit::Ok
    })
}

fn text(plan: &Plan) -> String {
    let mut text = format!("release {} of {}\n", plan.release, plan.configuration);
    let width = plan
        .steps
        .iter()
        .map(|step| step.step.as_str().len())
        .max()
        .unwrap_or_default();
    for PlannedStep {
        step,
        forecast,
        message,
        diffs,
    } in &plan.steps
    {
        let line = format!("{forecast:9}  {:width$}  {message}", step.as_str());
        let _ = writeln!(text, "{}", line.trim_end());
        for diff in diffs {
            let shown = diff
                .text
                .strip_prefix('(')
                .map_or_else(|| diff.text.clone(), |why| format!("{} ({why}", diff.path));
            for line in shown.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    let counts = [
        ("change", Forecast::Change),
        ("run", Forecast::Run),
        ("unchanged", Forecast::Unchanged),
        ("skip", Forecast::Skip),
        ("fail", Forecast::Fail),
        ("block", Forecast::Block),
        ("unknown", Forecast::Unknown),
    ];
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(name, forecast)| format!("{name}={}", plan.count(forecast)))
        .collect();
    text + &counts.join(" ")
}

#[cfg(test)]
mod tests {
    use potluck_model::Digest;
    use potluck_model::plan::Diff;

    use super::*;

    #[test]
    fn a_plan_reads_from_the_first_step_to_the_sum() {
        let plan = Plan {
            configuration: "web".parse().unwrap(),
            release: 3,
            list: Digest::of(b""),
            steps: vec![
                PlannedStep {
                    step: "site".parse().unwrap(),
                    forecast: Forecast::Change,
                    message: "placed 2 of 2 files: /a, /k".into(),
                    diffs: vec![
                        Diff {
                            path: "/a".into(),
                            text: "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n".into(),
                        },
                        Diff {
                            path: "/k".into(),
                            text: "(not shown: its mode keeps it from others)".into(),
                        },
                    ],
                },
                PlannedStep {
                    step: "tune".parse().unwrap(),
                    forecast: Forecast::Unchanged,
                    message: String::new(),
                    diffs: Vec::new(),
                },
            ],
        };
        insta::assert_snapshot!(text(&plan), @"
        release 3 of web
        change     site  placed 2 of 2 files: /a, /k
            --- a/a
            +++ b/a
            @@ -1 +1 @@
            -x
            +y
            /k (not shown: its mode keeps it from others)
        unchanged  tune
        change=1 run=0 unchanged=1 skip=0 fail=0 block=0 unknown=0
        ");
    }
}
