//! Chunks and files, and their removal.

use std::sync::Arc;

use potluck_model::api::Target;
use potluck_model::list::Content;
use potluck_model::{Digest, UnixSeconds};

use super::{NOW, publish, release};
use crate::blobs::{PackId, Stored};
use crate::catalogue::{Assigned, Catalogue, Moved, NewAssignment, NewRelease, Published, Sweep};

pub(super) fn chunks_stay_where_they_were_first(c: &dyn Catalogue) {
    let at = |pack, offset| Stored {
        pack: PackId(pack),
        offset,
        len: 5,
    };
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let high = u64::MAX;
    c.add_pack(PackId(high), vec![(a, at(high, 8))]).unwrap();
    c.add_pack(PackId(2), vec![(a, at(2, 8)), (b, at(2, 49))]).unwrap();
    assert_eq!(
        c.chunks(&[b, Digest::of(b"c"), a]).unwrap(),
        [Some(at(2, 49)), None, Some(at(high, 8))]
    );
    assert_eq!(c.stored_bytes().unwrap(), 10, "a chunk counts once");
    assert_eq!(
        c.packs().unwrap().into_iter().collect::<Vec<_>>(),
        [PackId(2), PackId(high)]
    );
}

pub(super) fn files_are_known_with_their_release(c: &dyn Catalogue) {
    let content = Content {
        digest: Digest::of(b"big"),
        size: 1 << 40,
        chunks: Some(Digest::of(b"chunk list")),
    };
    let mut new = release("web", 2);
    new.files.push(content);
    assert!(matches!(c.publish(new.clone()).unwrap(), Published::Conflict { .. }));
    assert_eq!(
        c.file(&content.digest).unwrap(),
        None,
        "nothing of a release that was refused stays"
    );
    new.release.release = 1;
    assert!(matches!(c.publish(new).unwrap(), Published::New(_)));
    assert_eq!(c.file(&content.digest).unwrap(), Some(content));
}

pub(super) fn removing_and_publishing_never_overlap(c: &dyn Catalogue) {
    let (old, new) = (PackId(1), PackId(2));
    let at = |pack, offset| Stored { pack, offset, len: 3 };
    let (needed, unused) = (Digest::of(b"needed"), Digest::of(b"unused"));
    c.add_pack(old, vec![(needed, at(old, 40)), (unused, at(old, 80))])
        .unwrap();
    let now = UnixSeconds::now();
    let cutoff = UnixSeconds(now.0 + 1);
    let sweep = |published, cutoff| Sweep {
        published,
        cutoff,
        now,
        packs: vec![old],
        moved: vec![Moved {
            digest: needed,
            from: at(old, 40),
            to: at(new, 40),
        }],
        unused: vec![(unused, at(old, 80))],
    };
    // A release came after it was found out what is in use.
    let (published, _) = c.lists().unwrap();
    publish(c, "web", 1);
    assert_eq!(c.sweep(sweep(published, cutoff)).unwrap(), None);
    assert_eq!(c.retain_files(published, Arc::default()).unwrap(), None);
    let (published, lists) = c.lists().unwrap();
    assert_eq!(lists.len(), 1);
    // A publisher was told that one of the chunks is there.
    assert_eq!(
        c.rely(&[needed, Digest::of(b"absent")], UnixSeconds(now.0 + 1_000))
            .unwrap(),
        [Some(at(old, 40)), None]
    );
    assert_eq!(c.packs_unused_since(cutoff).unwrap().len(), 0);
    assert_eq!(c.sweep(sweep(published, cutoff)).unwrap(), Some(vec![]));
    assert_eq!(
        c.chunks(&[needed, unused]).unwrap(),
        [Some(at(old, 40)), Some(at(old, 80))]
    );
    // A publisher checked its content before some of it was removed.
    let later = UnixSeconds(now.0 + 2_000);
    let checked = NewRelease {
        sweeps: c.sweeps().unwrap(),
        ..release("web", 2)
    };
    assert_eq!(c.sweep(sweep(published, later)).unwrap(), Some(vec![old]));
    assert_eq!(c.chunks(&[needed, unused]).unwrap(), [Some(at(new, 40)), None]);
    assert_eq!(c.packs().unwrap().into_iter().collect::<Vec<_>>(), [new]);
    assert_eq!(c.stored_bytes().unwrap(), 3);
    assert_eq!(c.publish(checked.clone()).unwrap(), Published::Swept);
    let again = NewRelease {
        sweeps: c.sweeps().unwrap(),
        ..checked
    };
    assert!(matches!(c.publish(again).unwrap(), Published::New(_)));
    // What is not there any more cannot be assigned.
    assert_eq!(c.remove_releases(1).unwrap().len(), 1);
    let gone = NewAssignment {
        configuration: "web".parse().unwrap(),
        release: Some(1),
        target: Target::All,
        now: NOW,
    };
    assert_eq!(c.assign(gone).unwrap(), Assigned::NoRelease);
}
