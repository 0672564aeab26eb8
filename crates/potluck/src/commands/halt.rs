//! `potluck halt` and `potluck resume`: the emergency stop.

use potluck_model::api::HaltRequest;

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::Output;

/// Keeps every step that has not started from starting, on all nodes
///
/// Steps that run are not ended. Files are still fetched and served. `potluck resume` lifts it.
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct HaltArgs {}

/// Lifts a halt: nodes go on with the steps that have not started
#[derive(clap::Args, Debug)]
pub(crate) struct ResumeArgs {}

/// Halts or resumes the fleet.
pub(crate) fn run(halted: bool, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let request = HaltRequest { halted };
    let _: serde_json::Value = block_on(async { Ok(operator.client.post("/v1/halt", &request).await?) })?;
    output.result(&request, |_| {
        if halted {
            "halted: no step starts on any node until `potluck resume`".into()
        } else {
            "resumed: nodes go on".into()
        }
    })?;
    Ok(Exit::Ok)
}
