//! Resources taken on an instance.

use crate::resources::Resources;

/// Resources taken by several containers on an instance. Containers without a core of their own
/// share one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Load {
    sum: Resources,
    sharing: u32,
    /// Number of containers.
    pub(crate) count: u32,
}

impl Load {
    pub(crate) fn add(&mut self, need: &Resources) {
        self.sum = self.sum.plus(need);
        self.sharing += u32::from(need.vcpus == 0);
        self.count += 1;
    }

    /// Sum of the resources, the shared core included.
    pub(crate) fn used(&self) -> Resources {
        let mut used = self.sum;
        used.vcpus = used.vcpus.saturating_add(u32::from(self.sharing > 0));
        used
    }

    /// True if one more container fits into `total`, within the limit on containers.
    pub(crate) fn has_room(&self, need: &Resources, total: &Resources, max: Option<u32>) -> bool {
        max.is_none_or(|max| self.count < max) && self.admits(need, total)
    }

    /// True if one more container fits into `total`.
    pub(crate) fn admits(&self, need: &Resources, total: &Resources) -> bool {
        let mut with = *self;
        with.add(need);
        total.holds(&with.used())
    }
}

impl<'a> FromIterator<&'a Resources> for Load {
    fn from_iter<I: IntoIterator<Item = &'a Resources>>(needs: I) -> Self {
        let mut load = Self::default();
        for need in needs {
            load.add(need);
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn load_coreless_containers_share_core() {
        let total = Resources {
            vcpus: 2,
            ram: 100,
            scratch: 100,
            gpus: 0,
        };
        let mut load = Load::default();
        let none = Resources::default();
        let one = Resources { vcpus: 1, ..none };
        for _ in 0..4 {
            assert!(load.admits(&none, &total));
            load.add(&none);
        }
        assert!(load.admits(&one, &total));
        load.add(&one);
        assert!(!load.admits(&one, &total));
        assert!(load.admits(&none, &total));
    }

    #[test]
    fn load_all_cores_taken_admits_none() {
        let total = Resources {
            vcpus: 2,
            ..Resources::default()
        };
        let load: Load = [&total].into_iter().collect();
        assert!(!load.admits(&Resources::default(), &total));
    }

    fn any_need() -> impl Strategy<Value = Resources> {
        (0u32..8, 0u64..1000, 0u64..1000, 0u32..3).prop_map(|(vcpus, ram, scratch, gpus)| {
            Resources {
                vcpus,
                ram,
                scratch,
                gpus,
            }
        })
    }

    proptest! {
        #[test]
        fn load_admitted_never_exceeds_total(needs in proptest::collection::vec(any_need(), 0..40)) {
            let total = Resources { vcpus: 12, ram: 3000, scratch: 3000, gpus: 4 };
            let mut load = Load::default();
            for need in &needs {
                if load.admits(need, &total) {
                    load.add(need);
                }
            }
            prop_assert!(total.holds(&load.used()));
        }
    }
}
