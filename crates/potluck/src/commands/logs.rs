//! `potluck logs`: what the steps of a node printed, and how they ended.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use potluck_model::Digest;
use potluck_model::trace::{Event, What};
use potluck_net::api::ApiFault;

use crate::arguments::Global;
use crate::exit::{Exit, Failure, chain};
use crate::operator::{Operator, block_on};
use crate::output::{Output, Style, Tone, clean, clock, span};
use crate::trace;

/// How often `--follow` asks the server for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Shows what the steps of a node printed, and how they ended
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  potluck logs edge-1                  of the release that the node worked on last
  potluck logs 00c0 --step tune        of one step; the node by the beginning of its id
  potluck logs -f edge-1               and whatever comes, until Ctrl-C")]
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
    /// Go on with what comes, also of other releases; with --json, one document a line
    #[arg(short, long)]
    follow: bool,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    if args.follow {
        return block_on(follow(&operator, args, output));
    }
    let events = block_on(async {
        let node = operator.node(&args.node).await?;
        operator.events(node.node, args.list).await
    })?;
    let events = of_last(events, args);
    output.result(&events, |style| match show(&events, style) {
        nothing if nothing.is_empty() => "no step has been started\n".to_owned(),
        text => text,
    })?;
    Ok(Exit::Ok)
}

/// What is wanted of the last release, or of the one that is asked for.
fn of_last(mut events: Vec<Event>, args: &Args) -> Vec<Event> {
    events.sort_by_key(|event| (event.boot, event.seq));
    let list = args.list.or_else(|| trace::last_list(&events));
    events.retain(|event| event.list == list && wanted(event, args.step.as_deref()));
    events
}

/// Prints what there is and then what comes, until nobody reads it any more.
async fn follow(operator: &Operator, args: &Args, output: Output) -> Result<Exit, Failure> {
    let node = operator.node(&args.node).await?.node;
    let (events, mut after) = operator.events_after(node, args.list, None).await?;
    let mut events = of_last(events, args);
    let mut told = false;
    loop {
        if !print_all(&events, output)? {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
        match operator.events_after(node, args.list, after).await {
            Ok((new, last)) => {
                after = last;
                events = new;
                events.retain(|event| wanted(event, args.step.as_deref()));
                told = false;
            }
            Err(fault @ (ApiFault::Unreachable { .. } | ApiFault::Silent { .. } | ApiFault::Broken { .. })) => {
                if !told {
                    output.note(&format!("{}; trying again", chain(&fault)));
                }
                told = true;
                events.clear();
            }
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// False: nobody reads it any more.
fn print_all(events: &[Event], output: Output) -> Result<bool, Failure> {
    let text = if output.json {
        let lines: Result<Vec<String>, _> = events
            .iter()
            .map(|event| serde_json::to_string(event).map(|line| line + "\n"))
            .collect();
        lines
            .map_err(|error| Failure::new(format!("writing an event as JSON: {error}")))?
            .concat()
    } else {
        show(events, output.style)
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("writing to standard output: {error}"))),
        Ok(()) => Ok(true),
    }
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
