//! `potluck gc`: removes what nobody needs any more.

use std::fmt::Write;

use potluck_model::api::{GcReport, GcRequest, ReleaseName};

use crate::arguments::{Global, span_seconds};
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, bytes, count};

/// Removes releases that nobody is assigned, and the chunks that no release needs
///
/// The newest releases of each configuration stay, and all that an assignment names or a node is
/// assigned. Nodes and publishers go on meanwhile.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck gc
  potluck gc --keep 10"
)]
pub(crate) struct Args {
    /// How many releases of each configuration stay, the newest ones
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
    /// Chunks stay that a publisher uploaded or counted on within this time
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span_seconds)]
    grace: u64,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let request = GcRequest {
        keep: args.keep,
        grace_seconds: args.grace,
    };
    let report: GcReport = block_on(async { Ok(operator.client.post("/v1/gc", &request).await?) })?;
    output.result(&report, |_| text(&report))?;
    Ok(Exit::Ok)
}

fn text(report: &GcReport) -> String {
    let mut text = String::new();
    for ReleaseName { configuration, release } in &report.releases {
        let _ = writeln!(text, "removed {configuration} release {release}");
    }
    let _ = write!(
        text,
        "removed {}, {} with {}",
        count(report.releases.len() as u64, "release"),
        count(report.chunks, "chunk"),
        bytes(report.bytes)
    );
    if report.bytes_left > 0 {
        let _ = write!(
            text,
            "; {} that no release needs stay for now, used lately or stored among others that are needed",
            bytes(report.bytes_left)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_removed_release_is_named() {
        let name = |release| ReleaseName {
            configuration: "web".parse().unwrap(),
            release,
        };
        let mut report = GcReport {
            releases: vec![name(1), name(2)],
            chunks: 1,
            bytes: 5 << 20,
            ..GcReport::default()
        };
        assert_eq!(
            text(&report),
            "removed web release 1\nremoved web release 2\nremoved 2 releases, 1 chunk with 5.0 MiB"
        );
        report = GcReport {
            bytes_left: 2048,
            ..GcReport::default()
        };
        assert!(text(&report).starts_with("removed 0 releases, 0 chunks with 0 B; 2.0 KiB that no release needs stay"));
    }
}
