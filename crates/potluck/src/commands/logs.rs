//! `potluck logs`: what the steps of a node printed, and how they ended.

use std::fmt::Write;
use std::time::Duration;

use potluck_model::Digest;
use potluck_model::trace::{Event, What};

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, Style, Tone, clean, clock, span};
use crate::trace;

/// Shows what the steps of a node printed, and how they ended
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  potluck logs edge-1                  of the release that the node worked on last
  potluck logs 00c0 --step tune        of one step; the node by the beginning of its id")]
pub(crate) struct Args {
    /// Its id, the beginning of its id, or its host name
    #[arg(value_name = "ID")]
    node: String,
    /// Of the release with this list instead of the last one
    #[arg(long, value_name = "DIGEST")]
    list: Option<Digest>,
    /// Only of this step
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let mut events = block_on(async {
        let node = operator.node(&args.node).await?;
        operator.events(node.node, args.list).await
    })?;
    events.sort_by_key(|event| (event.boot, event.seq));
    let list = args.list.or_else(|| trace::last_list(&events));
    events.retain(|event| event.list == list && wanted(event, args.step.as_deref()));
    output.result(&events, |style| show(&events, style))?;
    Ok(Exit::Ok)
}

fn wanted(event: &Event, step: Option<&str>) -> bool {
    let of = match &event.what {
        What::StepStarted { step } | What::StepOutput { step, .. } | What::StepEnded { step, .. } => Some(step),
        What::Executed { .. } | What::Trouble { .. } => None,
        _ => return false,
    };
    step.is_none_or(|wanted| of.is_some_and(|of| of.as_str() == wanted))
}

fn show(events: &[Event], style: Style) -> String {
    let mut out = String::new();
    for event in events {
        let at = style.paint(Tone::Dim, &clock(event.at));
        let _ = match &event.what {
            What::StepStarted { step } => {
                writeln!(out, "{at} {}", style.paint(Tone::Strong, &format!("{step} started")))
            }
            What::StepOutput { step, line } => {
                writeln!(
                    out,
                    "{at} {} {}",
                    style.paint(Tone::Dim, &format!("{step}:")),
                    clean(line)
                )
            }
            What::StepEnded {
                step,
                outcome,
                millis,
                exit,
                message,
            } => {
                let (tone, word) = trace::outcome(*outcome);
                let mut text = format!("{step} {word} after {}", span(Duration::from_millis(*millis)));
                if let Some(code) = exit.filter(|code| *code != 0) {
                    let _ = write!(text, ", exit {code}");
                }
                if !message.is_empty() {
                    let _ = write!(text, ": {}", clean(message));
                }
                writeln!(out, "{at} {}", style.paint(tone, &text))
            }
            What::Executed { recap } => writeln!(out, "{at} {recap}"),
            What::Trouble { message } => {
                writeln!(out, "{at} {}", style.paint(Tone::Bad, &clean(message)))
            }
            _ => Ok(()),
        };
    }
    if out.is_empty() {
        out.push_str("no step has been started\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::sample;

    #[test]
    fn output_is_shown_line_by_line_and_cannot_command_the_terminal() {
        let mut events = sample::events();
        events.retain(|event| wanted(event, None));
        insta::assert_snapshot!(show(&events, Style::PLAIN), @"
        08:00:00.015 tune started
        08:00:00.016 tune: tuned �[1mall�[0m
        08:00:00.017 tune changed after 12 ms
        08:00:00.018 changed=1 unchanged=0 failed=0 skipped=0 blocked=0
        ");
    }

    #[test]
    fn one_step_can_be_chosen() {
        let events = sample::events();
        let of = |step| events.iter().filter(|event| wanted(event, Some(step))).count();
        assert_eq!(of("tune"), 3);
        assert_eq!(of("other"), 0);
    }
}
