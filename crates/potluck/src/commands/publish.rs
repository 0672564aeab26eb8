//! `potluck publish`: makes a release of a directory.

use std::path::PathBuf;

use potluck_model::{ConfigurationName, VersionName};

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, bytes, count};
use crate::publish::{Publication, Published, publish};

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
  potluck publish build/out --name web-edge --version 2026.1"
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
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let publication = Publication {
        directory: args.directory,
        name: args.name,
        version: args.version,
    };
    let mut progress = output.progress();
    let published = block_on(publish(&operator, publication, &mut progress));
    drop(progress);
    let published = published?;
    for warning in &published.warnings {
        output.note(&format!("warning: {warning}"));
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
    if published.unchanged {
        return format!("{name} is unchanged, still release {release}{version}");
    }
    format!(
        "published {name} release {release}{version}: {}, {}, {} uploaded",
        count(published.files, "file"),
        bytes(published.bytes),
        bytes(published.uploaded_bytes)
    )
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
            warnings: vec![],
        };
        assert_eq!(
            line(&published),
            "published web-edge release 3 (2026.1): 204 files, 128.0 MiB, 12.3 MiB uploaded"
        );
        published.unchanged = true;
        assert_eq!(line(&published), "web-edge is unchanged, still release 3 (2026.1)");
    }
}
