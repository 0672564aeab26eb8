//! What the index says of contents that were looked at lately, so that a chunk that is stored or served costs no query.
//!
//! Holds only what the index has; what waits to be entered is added by `Index`. Whoever changes the index tells this.

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_model::Digest;

use crate::index::Row;

/// What may be kept: one for each chunk and `ROW_WEIGHT` for each content, of about 50 bytes each.
const WEIGHT_MAX: usize = 8_192;
const ROW_WEIGHT: usize = 3;

/// A chunk as the index has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) digest: Digest,
    /// In the content.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) held: bool,
}

/// What is known of the chunks of a content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Pieces {
    /// Nothing, yet.
    Unknown,
    /// They are too many to keep.
    TooMany,
    Here(Arc<Vec<Piece>>),
}

#[derive(Clone, Debug)]
struct Content {
    row: Row,
    pieces: Pieces,
}

impl Content {
    fn weight(&self) -> usize {
        match &self.pieces {
            Pieces::Unknown | Pieces::TooMany => ROW_WEIGHT,
            Pieces::Here(pieces) => ROW_WEIGHT + pieces.len(),
        }
    }
}

/// Two generations: what was not asked for while the younger one filled up is forgotten.
#[derive(Default, Debug)]
pub(crate) struct Known {
    young: BTreeMap<Digest, Content>,
    old: BTreeMap<Digest, Content>,
    /// Of `young`.
    weight: usize,
}

impl Known {
    pub(crate) fn row(&mut self, digest: &Digest) -> Option<Row> {
        self.get(digest).map(|content| content.row)
    }

    pub(crate) fn learn(&mut self, row: Row) {
        let pieces = Pieces::Unknown;
        self.put(Content { row, pieces });
    }

    /// The chunks of a content as this row cuts it.
    pub(crate) fn pieces(&mut self, row: &Row) -> Pieces {
        match self.get(&row.digest) {
            Some(content) if (content.row.id, content.row.cut) == (row.id, row.cut) => content.pieces.clone(),
            _ => Pieces::Unknown,
        }
    }

    /// Notes the chunks of a content that is known, unless they are too many.
    pub(crate) fn learn_pieces(&mut self, row: &Row, pieces: &Arc<Vec<Piece>>) {
        let known = self.get(&row.digest).map(|content| content.row);
        if let Some(row) = known.filter(|known| (known.id, known.cut) == (row.id, row.cut)) {
            let keep = ROW_WEIGHT + pieces.len() <= WEIGHT_MAX / 2;
            let pieces = if keep {
                Pieces::Here(Arc::clone(pieces))
            } else {
                Pieces::TooMany
            };
            self.put(Content { row, pieces });
        }
    }

    /// The index now has these chunks as held: `changed` of them were not before.
    pub(crate) fn held(&mut self, id: i64, chunks: impl Iterator<Item = u32>, changed: u32) {
        let mut contents = self.young.values_mut().chain(self.old.values_mut());
        let Some(content) = contents.find(|content| content.row.id == id) else {
            return;
        };
        content.row.missing = content.row.missing.saturating_sub(changed);
        if let Pieces::Here(pieces) = &mut content.pieces {
            let pieces = Arc::make_mut(pieces);
            for chunk in chunks {
                if let Some(piece) = pieces.get_mut(chunk as usize) {
                    piece.held = true;
                }
            }
        }
    }

    pub(crate) fn forget(&mut self, digest: &Digest) {
        if let Some(content) = self.young.remove(digest) {
            self.weight -= content.weight();
        }
        self.old.remove(digest);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn get(&mut self, digest: &Digest) -> Option<&Content> {
        if let Some(content) = self.old.remove(digest) {
            self.put(content);
        }
        self.young.get(digest)
    }

    fn put(&mut self, content: Content) {
        self.forget(&content.row.digest);
        if self.weight + content.weight() > WEIGHT_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += content.weight();
        self.young.insert(content.row.digest, content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u32) -> Row {
        Row {
            id: i64::from(number) + 1,
            digest: Digest::of(&number.to_be_bytes()),
            size: 10,
            pack: None,
            start: 0,
            missing: 2,
            cut: Some(Digest::of(b"cut")),
        }
    }

    fn pieces(count: usize) -> Arc<Vec<Piece>> {
        let piece = Piece {
            digest: Digest::of(b"chunk"),
            offset: 0,
            len: 5,
            held: false,
        };
        Arc::new(vec![piece; count])
    }

    #[test]
    fn what_is_not_asked_for_is_forgotten_and_what_is_stays() {
        let mut known = Known::default();
        known.learn(row(0));
        known.learn(row(1));
        let most = (WEIGHT_MAX / ROW_WEIGHT) as u32;
        for number in 2..2 + 2 * most {
            known.learn(row(number));
            assert!(known.row(&row(0).digest).is_some());
            assert!(known.young.len() + known.old.len() <= most as usize + 1);
        }
        assert_eq!(known.row(&row(1).digest), None);
    }

    #[test]
    fn chunks_of_another_cut_are_not_those_of_a_content() {
        let mut known = Known::default();
        known.learn(row(0));
        let other = Row { cut: None, ..row(0) };
        known.learn_pieces(&other, &pieces(2));
        assert_eq!(known.pieces(&row(0)), Pieces::Unknown);
        known.learn_pieces(&row(0), &pieces(2));
        assert_eq!(known.pieces(&other), Pieces::Unknown);
        assert_eq!(known.pieces(&row(0)), Pieces::Here(pieces(2)));
        known.learn_pieces(&row(0), &pieces(WEIGHT_MAX));
        assert_eq!(known.pieces(&row(0)), Pieces::TooMany);
        known.forget(&row(0).digest);
        assert_eq!(known.pieces(&row(0)), Pieces::Unknown);
        assert_eq!(known.weight, 0);
    }

    #[test]
    fn chunks_that_the_index_holds_now_are_held() {
        let mut known = Known::default();
        known.learn(row(0));
        known.learn_pieces(&row(0), &pieces(2));
        known.held(row(0).id, [1].into_iter(), 1);
        let Pieces::Here(here) = known.pieces(&row(0)) else {
            panic!("two chunks are not too many");
        };
        let held: Vec<bool> = here.iter().map(|piece| piece.held).collect();
        assert_eq!(held, [false, true]);
        assert_eq!(known.row(&row(0).digest).unwrap().missing, 1);
    }
}
