//! `potluck audit`: what operators did.

use potluck_model::audit::{AUDIT_ENTRIES_MAX, AuditEntry, AuditLog, Checkpoint};

use crate::arguments::Global;
use crate::exit::{Doing, Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Column, Output, Style, Table, Tone, clean, stamp};

/// Shows what operators did, oldest first
///
/// Each change is written down before it is made, in a log whose entries are bound to each other
/// by hashes. Nodes keep the end of the log that they were told last, and say so in their trouble
/// if the server's log does not go on from there.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck audit
  potluck audit --verify --checkpoint 57:9f3c…       is what was noted down elsewhere still in it?"
)]
pub(crate) struct Args {
    /// Check that no entry was changed, removed or put in
    #[arg(long)]
    verify: bool,
    /// Verify it, and check that it holds this entry with this hash
    #[arg(long, value_name = "NUMBER:HASH", value_parser = checkpoint)]
    checkpoint: Option<(u64, String)>,
}

fn checkpoint(text: &str) -> Result<(u64, String), String> {
    let wrong = || "expected the number of an entry, a colon, and at least 8 digits of its hash".to_owned();
    let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
    let good = (8..=64).contains(&hash.len()) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if !good {
        return Err(wrong());
    }
    Ok((number.parse().map_err(|_| wrong())?, hash.to_lowercase()))
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let log = block_on(read(&operator))?;
    if args.verify || args.checkpoint.is_some() {
        verify(&log, args.checkpoint.as_ref()).doing(|| "verifying the audit log".into())?;
    }
    output.result(&log, |style| table(&log.entries, style))?;
    if !output.json {
        let end = log.newest;
        let verified = if args.verify { "; the log is whole" } else { "" };
        output.note(&format!("the end of the log is {}:{}{verified}", end.number, end.hash));
    }
    Ok(Exit::Ok)
}

async fn read(operator: &Operator) -> Result<AuditLog, Failure> {
    let mut log: AuditLog = operator.client.get("/v1/audit?after=0").await?;
    while log.entries.len().is_multiple_of(AUDIT_ENTRIES_MAX)
        && let Some(last) = log.entries.last()
    {
        let path = format!("/v1/audit?after={}", last.number);
        let more: AuditLog = operator.client.get(&path).await?;
        log.newest = more.newest;
        if more.entries.is_empty() {
            break;
        }
        log.entries.extend(more.entries);
    }
    Ok(log)
}

/// Why the log is not believed.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error(transparent)]
    Chain(#[from] potluck_model::audit::AuditFault),
    #[error("it ends with entry {found}, and the server says {said}")]
    End { found: u64, said: u64 },
    #[error("entry {0} is not in it: the server was restored from an older copy, or entries were removed")]
    Short(u64),
    #[error(
        "entry {number} has the hash {found}, not {noted}: the server was restored from an older copy, or entries were changed"
    )]
    Other { number: u64, found: String, noted: String },
}

fn verify(log: &AuditLog, noted: Option<&(u64, String)>) -> Result<(), VerifyError> {
    let mut end = Checkpoint::START;
    let mut found = None;
    for entry in &log.entries {
        end = end.then(entry)?;
        if noted.is_some_and(|(number, _)| *number == end.number) {
            found = Some(end.hash.to_string());
        }
    }
    if end != log.newest {
        return Err(VerifyError::End {
            found: end.number,
            said: log.newest.number,
        });
    }
    match (noted, found) {
        (Some((number, noted)), Some(found)) if !found.starts_with(noted.as_str()) => Err(VerifyError::Other {
            number: *number,
            found,
            noted: noted.clone(),
        }),
        (Some((number, _)), None) => Err(VerifyError::Short(*number)),
        _ => Ok(()),
    }
}

fn table(entries: &[AuditEntry], style: Style) -> String {
    let mut table = Table::new([
        Column::right("NUMBER"),
        Column::left("TIME"),
        Column::left("OPERATOR"),
        Column::left("REQUEST"),
        Column::left("WITH"),
    ]);
    for entry in entries {
        let (tone, request) = match entry.refused {
            Some(number) => (Tone::Dim, format!("entry {number} was not carried out")),
            None => (Tone::Plain, clean(&entry.request).into_owned()),
        };
        table.row([
            (Tone::Plain, entry.number.to_string()),
            (Tone::Plain, stamp(entry.at)),
            (Tone::Plain, clean(&entry.operator).into_owned()),
            (tone, request),
            (tone, clean(&entry.body).into_owned()),
        ]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use potluck_model::UnixSeconds;

    use super::*;

    fn log(len: u64) -> AuditLog {
        let mut newest = Checkpoint::START;
        let mut entries = Vec::new();
        for number in 1..=len {
            let entry = AuditEntry {
                number,
                at: UnixSeconds(1_772_352_000),
                operator: "alice".into(),
                request: "POST /v1/halt".into(),
                body: r#"{"halted":true}"#.into(),
                refused: None,
                previous: newest.hash,
            };
            newest = newest.then(&entry).unwrap();
            entries.push(entry);
        }
        AuditLog { entries, newest }
    }

    #[test]
    fn a_log_is_verified_up_to_its_end_and_against_what_was_noted_elsewhere() {
        let whole = log(3);
        let noted = |log: &AuditLog| (log.newest.number, log.newest.hash.to_string());
        assert!(verify(&whole, None).is_ok());
        assert!(verify(&whole, Some(&noted(&log(2)))).is_ok());
        assert!(matches!(
            verify(&whole, Some(&noted(&log(4)))),
            Err(VerifyError::Short(4))
        ));
        let other = (2, "00000000".to_owned());
        assert!(matches!(
            verify(&whole, Some(&other)),
            Err(VerifyError::Other { number: 2, .. })
        ));
        let mut cut = whole.clone();
        cut.entries.pop();
        assert!(matches!(
            verify(&cut, None),
            Err(VerifyError::End { found: 2, said: 3 })
        ));
        let mut changed = whole;
        changed.entries[0].body.clear();
        assert!(matches!(verify(&changed, None), Err(VerifyError::Chain(_))));
    }

    #[test]
    fn a_checkpoint_is_a_number_and_a_hash() {
        assert_eq!(checkpoint("57:9F3C00aa").unwrap(), (57, "9f3c00aa".into()));
        for bad in ["", "57", "57:", "57:9f3c", "x:9f3c00aa", "57:9f3c00ag"] {
            assert!(checkpoint(bad).is_err(), "{bad}");
        }
    }
}
