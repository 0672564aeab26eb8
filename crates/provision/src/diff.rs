//! How files would change, for people: unified diffs of text, never of what its mode keeps from others.

use std::time::Duration;

use potluck_model::plan::Diff;
use similar::TextDiff;

/// The most bytes of a file of which a difference is shown.
pub(crate) const DIFF_BYTES_MAX: u64 = 256 << 10;
/// After that long a difference is shown that is right, but perhaps not the shortest.
const SEARCH_MAX: Duration = Duration::from_millis(200);
/// Permission to read for everybody.
const READ_BY_ALL: u32 = 0o004;

/// Bytes and mode of a file; no bytes: they are too many, or cannot be had.
pub(crate) struct Version {
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) mode: u32,
}

/// The difference between what is there and what is to be at `path`, which is absolute. `None`: nothing.
pub(crate) fn between(path: &str, old: Option<&Version>, new: Option<&Version>) -> Diff {
    let both = || old.into_iter().chain(new);
    let text = if both().any(|version| version.mode & READ_BY_ALL == 0) {
        "(not shown: its mode keeps it from others)".to_owned()
    } else if both().any(|version| version.bytes.is_none()) {
        format!(
            "(not shown: it has more than {} KiB, or is not here)",
            DIFF_BYTES_MAX >> 10
        )
    } else {
        match (text_of(old), text_of(new)) {
            (Some(before), Some(after)) => unified(path, before, after, old, new),
            _ => "(not shown: it is not text)".to_owned(),
        }
    };
    Diff {
        path: path.to_owned(),
        text,
    }
}

fn text_of(version: Option<&Version>) -> Option<&str> {
    let bytes = version.and_then(|version| version.bytes.as_deref()).unwrap_or_default();
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn unified(path: &str, before: &str, after: &str, old: Option<&Version>, new: Option<&Version>) -> String {
    let name = |version: Option<&Version>, side: &str| match version {
        Some(_) => format!("{side}{path}"),
        None => "/dev/null".to_owned(),
    };
    let mut text = TextDiff::configure()
        .timeout(SEARCH_MAX)
        .diff_lines(before, after)
        .unified_diff()
        .header(&name(old, "a"), &name(new, "b"))
        .to_string();
    if let (Some(old), Some(new)) = (old, new)
        && old.mode != new.mode
    {
        text = format!("old mode {:o}\nnew mode {:o}\n{text}", old.mode, new.mode);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(bytes: &[u8], mode: u32) -> Version {
        Version {
            bytes: Some(bytes.to_vec()),
            mode,
        }
    }

    #[test]
    fn a_difference_reads_as_people_know_it() {
        let diff = between(
            "/etc/app.conf",
            Some(&version(b"a\nb\nc\n", 0o644)),
            Some(&version(b"a\nB\nc\n", 0o755)),
        );
        assert_eq!(
            diff.text,
            "old mode 644\nnew mode 755\n--- a/etc/app.conf\n+++ b/etc/app.conf\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
        );
        let made = between("/n", None, Some(&version(b"x\n", 0o644)));
        assert_eq!(made.text, "--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n");
    }

    #[test]
    fn what_others_may_not_read_is_never_shown_before_nor_after() {
        let (open, closed) = (version(b"secret\n", 0o644), version(b"other\n", 0o640));
        for (old, new) in [(&open, &closed), (&closed, &open), (&closed, &closed)] {
            let text = between("/etc/key", Some(old), Some(new)).text;
            assert!(text.starts_with("(not shown"), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_shown() {
        let text = between("/x", None, Some(&version(b"\xff\xfe", 0o644))).text;
        assert!(text.contains("not text"), "{text}");
        let text = between(
            "/x",
            None,
            Some(&Version {
                bytes: None,
                mode: 0o644,
            }),
        )
        .text;
        assert!(text.contains("more than 256 KiB"), "{text}");
    }
}
