//! A table with small stable keys.

use alloc::vec::Vec;

/// Values by key; keys are used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Slab {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        if let Some(key) = self.free.pop() {
            assert!(self.places[key].is_none());
            self.places[key] = Some(value);
            return key;
        }
        self.places.push(Some(value));
        self.places.len() - 1
    }

    pub(super) fn get(&self, key: usize) -> &T {
        self.places[key].as_ref().expect("a key in use")
    }

    pub(super) fn get_mut(&mut self, key: usize) -> &mut T {
        self.places[key].as_mut().expect("a key in use")
    }

    pub(super) fn remove(&mut self, key: usize) -> T {
        let value = self.places[key].take().expect("a key in use");
        self.free.push(key);
        value
    }

    /// Takes everything out, in key order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.free.clear();
        core::mem::take(&mut self.places).into_iter().flatten()
    }
}
