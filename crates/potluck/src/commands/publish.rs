//! `potluck publish`: makes a release of a directory.

use std::fmt::Write;
use std::path::PathBuf;

use potluck_model::{ConfigurationName, VersionName};

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, bytes, count};
use crate::publish::{Changes, Minimum, Narrowing, Publication, Published, publish};
use crate::publisher::KeyPlace;

/// Publishes a directory: makes an immutable release of a configuration
///
/// The directory holds the files and, optionally, a configuration.toml that says how each is
/// executed. What the server has already is not uploaded again; an interrupted upload is resumed by
/// publishing again. If nothing has changed since the latest release, none is made.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck publish web-edge                       the next release of web-edge
  potluck publish build/out --name web-edge --version 2026.1
  potluck publish web-edge --minimum this        what is older has a hole: nobody executes it again
  potluck publish web-edge --keys /media/stick   signed with a publisher's key, see `potluck key`"
)]
pub(crate) struct Args {
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The configuration's name [default: from configuration.toml, or DIR's]
    #[arg(long, value_name = "NAME")]
    name: Option<ConfigurationName>,
    /// A name for people of the release, beside its number
    #[arg(long, value_name = "VERSION")]
    version: Option<VersionName>,
    /// Only this node may execute it, whatever is assigned; can be repeated
    #[arg(long, value_name = "NODE")]
    only: Vec<String>,
    /// Nothing below this release (or `this`) is executed or restored any more
    #[arg(long, value_name = "RELEASE")]
    minimum: Option<Minimum>,
    #[command(flatten)]
    place: KeyPlace,
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let mut progress = output.progress();
    let published = block_on(async {
        let publication = Publication {
            directory: args.directory,
            name: args.name,
            version: args.version,
            narrowing: Narrowing::find(&operator, &args.only, args.minimum).await?,
            place: args.place,
        };
        publish(&operator, publication, &mut progress).await
    });
    drop(progress);
    let published = published?;
    for warning in &published.warnings {
        output.note(&format!("warning: {warning}"));
    }
    for line in published
        .changes
        .iter()
        .flat_map(Changes::lines)
        .filter(|_| !output.json)
    {
        output.note(&line);
    }
    output.result(&published, |_| line(&published))?;
    Ok(Exit::Ok)
}

/// The last line.
pub(crate) fn line(published: &Published) -> String {
    let version = published
        .version
        .as_ref()
        .map_or_else(String::new, |version| format!(" ({version})"));
    let name = &published.configuration;
    let release = published.release;
    let mut line = match (published.unchanged, published.lacking.as_slice()) {
        (true, _) => format!("{name} is unchanged, still release {release}{version}"),
        (false, []) => format!("published {name} release {release}{version}"),
        (false, _) => format!("uploaded {name} release {release}{version}"),
    };
    if !published.unchanged {
        let (files, size) = (count(published.files, "file"), bytes(published.bytes));
        let uploaded = bytes(published.uploaded_bytes);
        let _ = write!(line, ": {files}, {size}, {uploaded} uploaded");
    }
    if let Some(only) = &published.only {
        let _ = write!(line, "; for {} only", count(only.len() as u64, "node"));
    }
    if let Some(minimum) = published.minimum {
        let _ = write!(line, "; nothing below release {minimum} is executed any more");
    }
    if !published.lacking.is_empty() {
        let lacking = published.lacking.join(", ");
        let _ = write!(line, "; it waits for others with `potluck key sign`: {lacking}");
    }
    line
}

#[cfg(test)]
mod tests {
    use potluck_model::Digest;

    use super::*;

    #[test]
    fn the_last_line_says_what_was_published() {
        let mut published = Published {
            configuration: "web-edge".parse().unwrap(),
            release: 3,
            version: Some("2026.1".parse().unwrap()),
            list: Digest::of(b""),
            unchanged: false,
            files: 204,
            bytes: 128 << 20,
            uploaded_bytes: 12_900_000,
            only: None,
            minimum: None,
            lacking: vec![],
            warnings: vec![],
            changes: None,
        };
        assert_eq!(
            line(&published),
            "published web-edge release 3 (2026.1): 204 files, 128.0 MiB, 12.3 MiB uploaded"
        );
        published.unchanged = true;
        assert_eq!(line(&published), "web-edge is unchanged, still release 3 (2026.1)");
        published.only = Some([potluck_model::NodeId(7)].into());
        published.minimum = Some(3);
        assert_eq!(
            line(&published),
            "web-edge is unchanged, still release 3 (2026.1); for 1 node only; nothing below release 3 is executed any more"
        );
    }
}
