//! `potluck join-token`: lets nodes in.

use potluck_model::LabelKey;
use potluck_model::api::{TokenAnswer, TokenRequest};

use crate::arguments::{Global, label, ttl_seconds};
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, count, stamp};

/// Prints a join string, with which new nodes join
///
/// The join string is a secret: whoever has it can join as many nodes as it allows, while it is
/// valid. It stands alone on stdout.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck join-token                            for one node, within an hour
  potluck join-token --approval                 nodes wait for `potluck approve`
  potluck join-token --uses 40 --ttl 2d --label role=web --label site=berlin
  potluck join-token | ssh edge-1 'cat > /etc/potluck/join && systemctl start potluck-agent'"
)]
pub(crate) struct Args {
    /// How many nodes may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// For how long it is valid: 30m, 12h, 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl_seconds)]
    ttl: u64,
    /// Let each node wait until `potluck approve` admits it
    #[arg(long)]
    approval: bool,
    /// A label for these nodes; VALUE `*` lets each say its own with `agent --label`
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(LabelKey, String)>,
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let request = TokenRequest {
        uses: args.uses,
        ttl_seconds: args.ttl,
        labels: args.labels.into_iter().collect(),
        approval: args.approval,
    };
    let answer: TokenAnswer = block_on(async { Ok(operator.client.post("/v1/tokens", &request).await?) })?;
    output.result(&answer, |_| answer.join.clone())?;
    if !output.json {
        output.note(&format!(
            "for {}, until {}",
            count(request.uses.into(), "node"),
            stamp(answer.expires)
        ));
    }
    Ok(Exit::Ok)
}
