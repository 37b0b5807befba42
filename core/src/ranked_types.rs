//! Instance types in order of preference.

use std::collections::BTreeMap;
use std::ops::Deref;

use crate::ids::TypeName;

/// Types, most preferred first. A query for the rank of a type costs O(log types).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Types {
    ranked: Vec<TypeName>,
    /// Rank of each type, by name.
    places: Vec<(TypeName, usize)>,
}

impl From<Vec<TypeName>> for Types {
    fn from(ranked: Vec<TypeName>) -> Self {
        let numbered = ranked.iter().cloned().zip(0..);
        let mut places: Vec<(TypeName, usize)> = numbered.collect();
        places.sort_unstable();
        Self { ranked, places }
    }
}

impl Deref for Types {
    type Target = [TypeName];

    fn deref(&self) -> &[TypeName] {
        &self.ranked
    }
}

impl Types {
    pub(crate) const NONE: Self = Self {
        ranked: Vec::new(),
        places: Vec::new(),
    };

    fn place(&self, name: &TypeName) -> Option<usize> {
        let found = self.places.binary_search_by_key(&name, |(of, _)| of);
        found.ok().map(|at| self.places[at].1)
    }

    /// Entries of a map for these types, with the rank of the type, unordered. Iterates over the
    /// shorter of both: O(min(types, entries) · log).
    pub(crate) fn found_in<'a, V>(
        &'a self,
        map: &'a BTreeMap<TypeName, V>,
    ) -> impl Iterator<Item = (usize, &'a V)> {
        let few_types = self.ranked.len() <= map.len();
        let types = few_types.then(|| self.ranked.iter().enumerate());
        let by_type = types.into_iter().flatten();
        let by_type = by_type.filter_map(|(place, name)| Some((place, map.get(name)?)));
        let entries = (!few_types).then(|| map.iter()).into_iter().flatten();
        let by_entry = entries.filter_map(|(name, value)| Some((self.place(name)?, value)));
        by_type.chain(by_entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranked_types_lookup_independent_of_sizes() {
        let types = ["m", "c", "z", "a"].map(TypeName::from);
        let types = Types::from(types.to_vec());
        let found = |names: &[&str]| {
            let map: BTreeMap<TypeName, usize> = names
                .iter()
                .map(|name| (TypeName::from(*name), name.len()))
                .collect();
            let mut places: Vec<usize> = types.found_in(&map).map(|(place, _)| place).collect();
            places.sort_unstable();
            places
        };
        assert_eq!(found(&["c", "x"]), [1]);
        assert_eq!(found(&["a", "b", "c", "d", "e", "z"]), [1, 2, 3]);
        assert_eq!(found(&[]), Vec::<usize>::new());
    }
}
