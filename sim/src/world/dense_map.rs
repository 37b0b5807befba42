//! Maps keyed by instance or container, with array access for ids numbered by the world.

use std::collections::BTreeMap;
use std::ops::Index;

use longshore_core::ids::{ContainerId, InstanceId};

/// Id with a number in most cases.
pub(crate) trait Named: Clone + Ord {
    /// Returns the number of the id, unique per id; `None` for ids not issued by the world.
    fn number(&self) -> Option<usize>;
}

/// Limit of the number table: higher numbers are stored by id, so a made-up number cannot enlarge
/// the table.
const NUMBER_MAX: usize = 1 << 22;

impl Named for InstanceId {
    fn number(&self) -> Option<usize> {
        let digits = self.as_str().as_bytes().strip_prefix(b"i-")?;
        if digits.len() != 8 {
            return None;
        }
        let number = digits.iter().try_fold(0, |sum, digit| {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            Some(sum << 4 | usize::from(value))
        });
        number.filter(|number| *number <= NUMBER_MAX)
    }
}

impl Named for ContainerId {
    fn number(&self) -> Option<usize> {
        let digits = self.as_str().as_bytes().strip_prefix(b"zzzzz-dz642-")?;
        let number = digits.iter().try_fold(0, |sum: usize, digit| {
            let value = digit.is_ascii_digit().then(|| usize::from(digit - b'0'))?;
            sum.checked_mul(10)?.checked_add(value)
        });
        number.filter(|number| *number <= NUMBER_MAX)
    }
}

/// Returns the uuid of the nth container.
pub(crate) fn container_id(number: u64) -> ContainerId {
    let text = format!("zzzzz-dz642-{number:015}");
    text.parse().expect("27 characters, digits at the end")
}

/// Map like `BTreeMap` without a meaningful order: equal histories give equal orders. Lookup,
/// insert and remove are O(1) for numbered ids; iteration is O(entries).
#[derive(Clone, Debug)]
pub(crate) struct DenseMap<K, T> {
    /// Row of each number, plus one; 0 for none.
    places: Vec<u32>,
    rows: Vec<(K, T)>,
    others: BTreeMap<K, T>,
}

impl<K, T> Default for DenseMap<K, T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            rows: Vec::new(),
            others: BTreeMap::new(),
        }
    }
}

impl<K: Named, T> DenseMap<K, T> {
    fn row(&self, number: usize) -> Option<usize> {
        let place = *self.places.get(number)?;
        (place as usize).checked_sub(1)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&T> {
        match key.number() {
            Some(number) => self.row(number).map(|row| &self.rows[row].1),
            None => self.others.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut T> {
        match key.number() {
            Some(number) => self.row(number).map(|row| &mut self.rows[row].1),
            None => self.others.get_mut(key),
        }
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Returns the existing value, or inserts a new value.
    pub(crate) fn or_insert_with(&mut self, key: &K, new: impl FnOnce() -> T) -> &mut T {
        let Some(number) = key.number() else {
            return self.others.entry(key.clone()).or_insert_with(new);
        };
        let row = self.row(number).unwrap_or_else(|| {
            if self.places.len() <= number {
                self.places.resize(number + 1, 0);
            }
            self.rows.push((key.clone(), new()));
            self.places[number] = u32::try_from(self.rows.len()).expect("no more than numbers");
            self.rows.len() - 1
        });
        &mut self.rows[row].1
    }

    /// Sets the value; returns the previous value.
    pub(crate) fn insert(&mut self, key: &K, value: T) -> Option<T> {
        if let Some(old) = self.get_mut(key) {
            return Some(std::mem::replace(old, value));
        }
        self.or_insert_with(key, || value);
        None
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<T> {
        let Some(number) = key.number() else {
            return self.others.remove(key);
        };
        let row = self.row(number)?;
        self.places[number] = 0;
        let (_, value) = self.rows.swap_remove(row);
        if let Some((moved, _)) = self.rows.get(row) {
            let number = moved.number().expect("rows have numbers");
            self.places[number] = u32::try_from(row + 1).expect("no more than numbers");
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        let rows = self.rows.iter().map(|(key, value)| (key, value));
        rows.chain(&self.others)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut T) -> bool) {
        for row in (0..self.rows.len()).rev() {
            let (key, value) = &mut self.rows[row];
            if !keep(key, value) {
                let key = key.clone();
                self.remove(&key);
            }
        }
        self.others.retain(|key, value| keep(key, value));
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len() + self.others.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<K: Named, T> Index<&K> for DenseMap<K, T> {
    type Output = T;

    fn index(&self, key: &K) -> &T {
        self.get(key).expect("it is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::dense_map::container_id;
    use crate::world::rng::Rng;

    /// Returns ids of either kind, all distinct.
    fn name(number: u64) -> InstanceId {
        let text = match number % 4 {
            0 => format!("I-{number:08x}"),
            1 => format!("i-{:08x}", number << 20),
            _ => format!("i-{number:08x}"),
        };
        InstanceId::from(text.as_str())
    }

    #[test]
    fn dense_map_random_operations_match_btree_map() {
        let mut rng = Rng::new(1, "table");
        let (mut table, mut map) = (DenseMap::default(), BTreeMap::new());
        for round in 0..20_000 {
            let key = name(rng.below(100));
            match rng.below(4) {
                0 => assert_eq!(table.remove(&key), map.remove(&key)),
                1 if round % 100 == 1 => {
                    table.retain(|_, value| *value % 3 != 0);
                    map.retain(|_, value| *value % 3 != 0);
                }
                1 => {
                    let there = *table.or_insert_with(&key, || round);
                    assert_eq!(there, *map.entry(key).or_insert(round));
                }
                _ => assert_eq!(table.insert(&key, round), map.insert(key.clone(), round)),
            }
            assert_eq!(table.len(), map.len());
        }
        let mut all: Vec<_> = table.iter().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(&map));
        assert!(map.iter().all(|(key, value)| table.get(key) == Some(value)));
    }

    #[test]
    fn number_foreign_id_is_none() {
        assert_eq!(container_id(1234).number(), Some(1234));
        assert_eq!(InstanceId::from("i-0000001f").number(), Some(31));
        for text in ["i-0000001F", "i-1f", "i-ffffffff", "j-0000001f", ""] {
            assert_eq!(InstanceId::from(text).number(), None, "{text}");
        }
        for text in ["zzzzz-dz642-999999999999999", "zzzzz-dz642-00000000000000a"] {
            let id: ContainerId = text.parse().expect("a uuid");
            assert_eq!(id.number(), None, "{text}");
        }
    }
}
