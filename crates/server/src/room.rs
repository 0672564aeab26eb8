//! Room on the disk: an upload is refused before it fills the disk, so that reports of nodes still get through.

use std::sync::atomic::{AtomicU64, Ordering};

use potluck_model::api::ErrorKind;

use crate::blobs::{Blobs, Space};
use crate::refusal::Refusal;

/// What uploads leave free, in bytes, on a disk that is large enough.
const RESERVE_BYTES: u64 = 256 << 20;
/// What they leave free of a small disk: one part in so many.
const RESERVE_PART: u64 = 20;

/// Room that an upload will need. Until this is dropped, others cannot have it.
pub(crate) struct Room<'a> {
    taken: &'a AtomicU64,
    bytes: u64,
}

impl<'a> Room<'a> {
    /// Takes room for `bytes`, of which `taken` counts what others have taken.
    pub(crate) fn take(blobs: &dyn Blobs, taken: &'a AtomicU64, bytes: u64) -> Result<Self, Refusal> {
        let others = taken.fetch_add(bytes, Ordering::Relaxed);
        // Given back if there is not enough.
        let room = Self { taken, bytes };
        match blobs.space()? {
            Some(space) if space.free < bytes.saturating_add(others).saturating_add(reserve(space)) => {
                let mib = |bytes: u64| bytes >> 20;
                let message = format!(
                    "the server's disk has {} MiB left of {}, too little for an upload of {} MiB and the {} MiB that are \
                     kept for reports: make room on it, for instance with `potluck gc`, then publish again",
                    mib(space.free),
                    mib(space.total),
                    mib(bytes.saturating_add(others)).max(1),
                    mib(reserve(space)),
                );
                tracing::warn!("{message}");
                Err(Refusal::new(ErrorKind::NoSpace, message))
            }
            _ => Ok(room),
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn reserve(space: Space) -> u64 {
    RESERVE_BYTES.min(space.total / RESERVE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::{BlobsError, PackId, PackWriter};

    struct Disk(Space);

    impl Blobs for Disk {
        fn create(&self) -> Result<Box<dyn PackWriter>, BlobsError> {
            Err(BlobsError::Full)
        }
        fn read(&self, _: PackId, _: u64, _: usize) -> Result<Vec<u8>, BlobsError> {
            Err(BlobsError::Full)
        }
        fn len(&self, _: PackId) -> Result<u64, BlobsError> {
            Err(BlobsError::Full)
        }
        fn packs(&self) -> Result<Vec<PackId>, BlobsError> {
            Ok(Vec::new())
        }
        fn remove(&self, _: PackId) -> Result<(), BlobsError> {
            Ok(())
        }
        fn space(&self) -> Result<Option<Space>, BlobsError> {
            Ok(Some(self.0))
        }
    }

    #[test]
    fn uploads_under_way_and_a_reserve_count_as_taken() {
        let mib = |n: u64| n << 20;
        // 5 MiB are reserved.
        let disk = Disk(Space {
            free: mib(35),
            total: mib(100),
        });
        let taken = AtomicU64::new(0);
        let first = Room::take(&disk, &taken, mib(20)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let refused = Room::take(&disk, &taken, mib(11)).err().unwrap();
        let text = format!("{refused:?}");
        assert!(text.contains("NoSpace") && text.contains("potluck gc"), "{text}");
        let second = Room::take(&disk, &taken, mib(10)).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        drop((first, second));
        assert_eq!(
            taken.load(Ordering::Relaxed),
            0,
            "what was refused or is over takes no room"
        );
        assert!(Room::take(&disk, &taken, mib(30)).is_ok());
    }
}
