//! How a run went, over time.

use potluck_model::Time;

/// Width of a step, in microseconds.
pub(crate) const STEP: u64 = 50_000;
/// Steps that are kept: what is later counts for the last one.
const STEPS_MAX: usize = 72_000;

/// Sums for each step of time.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Bytes that the origin put on the sites' uplinks, with all headers.
    pub(crate) origin: Vec<u64>,
    /// Nodes that had everything.
    pub(crate) complete: Vec<u32>,
}

impl History {
    pub(crate) fn origin(&mut self, now: Time, bytes: u64) {
        *slot(&mut self.origin, now) += bytes;
    }

    pub(crate) fn complete(&mut self, now: Time) {
        *slot(&mut self.complete, now) += 1;
    }
}

fn slot<T: Default + Clone>(sums: &mut Vec<T>, now: Time) -> &mut T {
    let step = ((now.0 / STEP) as usize).min(STEPS_MAX - 1);
    if step >= sums.len() {
        sums.resize(step + 1, T::default());
    }
    &mut sums[step]
}
