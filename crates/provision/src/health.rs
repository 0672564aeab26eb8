//! Health checks: commands that must succeed when all steps have ended well. A machine that is not healthy has not converged.

use std::time::{Duration, Instant};

use potluck_model::list::HealthCheck;
use potluck_model::trace::{Outcome, What};

use crate::engine::{Done, Engine, Fault, clip};
use crate::journal::JournalError;
use crate::steps::run;

/// From one try to the next.
const EVERY: Duration = Duration::from_millis(500);

/// Makes the checks, one after the other, and reports each like a step; those behind one that failed are not made.
pub(crate) fn check(engine: &mut Engine<'_>) -> Result<Vec<Outcome>, JournalError> {
    let setting = engine.setting;
    let checks = &setting.list.settings.health;
    let mut outcomes = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        let id = HealthCheck::id(index + 1);
        engine.note(What::StepStarted { step: id.clone() }, None)?;
        let start = Instant::now();
        let done = match watch(engine, check, start) {
            Ok(done) => done,
            Err(Fault::Failed(why)) => Done::new(Outcome::Failed, format!("not healthy: {why}")),
            Err(Fault::Journal(error)) => return Err(error),
        };
        let outcome = engine.end(&id, start, done)?;
        outcomes.push(outcome);
        if outcome == Outcome::Failed {
            break;
        }
    }
    Ok(outcomes)
}

/// Until it has succeeded for as long as it should, or has not in time.
fn watch(engine: &mut Engine<'_>, check: &HealthCheck, start: Instant) -> Result<Done, Fault> {
    let (within, stable) = (
        Duration::from_secs(check.within_seconds),
        Duration::from_secs(check.stable_for_seconds),
    );
    let mut healthy_since = None;
    loop {
        // The last try may begin just before the time is over.
        engine.give_time(within.saturating_sub(start.elapsed()).max(EVERY) + stable);
        let command = run::guard_command(engine, &check.run, false)?;
        let fault = engine.question(command).and_then(|ended| {
            let what = format!("`{}`", clip(&check.run.join(" ")));
            ended.ok(&what)
        });
        match fault {
            Ok(()) => {
                let since = *healthy_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= stable {
                    return Ok(Done::new(Outcome::Unchanged, "healthy"));
                }
            }
            Err(Fault::Failed(why)) => {
                healthy_since = None;
                if start.elapsed() >= within {
                    return Ok(Done::new(
                        Outcome::Failed,
                        format!("not healthy within {} s: {why}", check.within_seconds),
                    ));
                }
            }
            Err(journal @ Fault::Journal(_)) => return Err(journal),
        }
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests;
