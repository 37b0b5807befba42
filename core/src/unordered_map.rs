//! Map for lookups by key, without an observable order.

use std::hash::{Hash, Hasher};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::hash::Fnv;

/// Lookup, insertion and removal cost O(1), without allocation while the number of entries is
/// constant. The internal order follows from the history of operations and not from any hash, and
/// is not exposed. Data read in order belongs in a `BTreeMap`.
#[derive(Clone, Debug)]
pub(crate) struct UnorderedMap<K, V>(IndexMap<K, V, FxBuildHasher>);

impl<K, V> Default for UnorderedMap<K, V> {
    fn default() -> Self {
        Self(IndexMap::default())
    }
}

impl<K: Ord + Hash, V> UnorderedMap<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// Inserts an entry and returns its predecessor.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.0.swap_remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// All entries in key order. O(n log n), for views.
    pub(crate) fn in_order(&self) -> Vec<(&K, &V)> {
        let mut all: Vec<(&K, &V)> = self.0.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

/// Hashes the entries independently of their history. O(n).
impl<K: Hash, V: Hash> Hash for UnorderedMap<K, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let of = |entry: (&K, &V)| {
            let mut hasher = Fnv::default();
            entry.hash(&mut hasher);
            hasher.finish()
        };
        state.write_usize(self.0.len());
        state.write_u64(self.0.iter().map(of).fold(0, u64::wrapping_add));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unordered_map_hash_depends_on_entries_only() {
        let hash = |unordered_map: &UnorderedMap<u32, u32>| {
            let mut hasher = Fnv::default();
            unordered_map.hash(&mut hasher);
            hasher.finish()
        };
        let (mut one, mut other) = (UnorderedMap::default(), UnorderedMap::default());
        for n in 0..100 {
            one.insert(n, n * n);
            other.insert(99 - n, 0);
        }
        assert_ne!(hash(&one), hash(&other));
        for n in 0..100 {
            other.insert(99 - n, (99 - n) * (99 - n));
        }
        assert_eq!(hash(&one), hash(&other));
        let keys: Vec<u32> = one.in_order().into_iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, (0..100).collect::<Vec<u32>>());
    }
}
