//! Things that come and go, by a number that is never used for two of them.

/// Number of a thing: its place, and how many were there before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    place: u32,
    life: u32,
}

/// Places for things, used again when a thing is gone.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, thing: T) -> Key {
        if let Some(place) = self.free.pop() {
            let (life, slot) = &mut self.places[place as usize];
            *slot = Some(thing);
            return Key { place, life: *life };
        }
        self.places.push((0, Some(thing)));
        Key {
            place: self.places.len() as u32 - 1,
            life: 0,
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (life, slot) = self.places.get(key.place as usize)?;
        slot.as_ref().filter(|_| *life == key.life)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (life, slot) = self.places.get_mut(key.place as usize)?;
        slot.as_mut().filter(|_| *life == key.life)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (life, slot) = self.places.get_mut(key.place as usize)?;
        if *life != key.life {
            return None;
        }
        let thing = slot.take()?;
        *life += 1;
        self.free.push(key.place);
        Some(thing)
    }

    /// What is there, with its number, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(place, (life, slot))| {
            let key = Key {
                place: place as u32,
                life: *life,
            };
            slot.as_ref().map(|thing| (key, thing))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_what_is_gone_finds_nothing_in_its_place() {
        let mut slab = Slab::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "b"));
        assert_eq!(slab.iter().count(), 1);
    }
}
