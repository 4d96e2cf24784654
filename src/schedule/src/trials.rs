//! The trials by id. A snapshot shares them with its state: a clone costs the same for a million
//! trials as for ten. Later changes copy one shard of the trials at a time.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use sweep::TrialId;

use crate::state::TrialState;

/// Bits of an id that choose its shard: each copy stays small, and so do small states.
const SHARD_BITS: u32 = 10;

type Shard = BTreeMap<TrialId, Arc<TrialState>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trials {
    /// Shards by the first bits of the ids, so that their order is the order of the ids; none is
    /// empty.
    shards: BTreeMap<u16, Arc<Shard>>,
    len: usize,
}

impl Trials {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, id: &TrialId) -> Option<&TrialState> {
        self.shards.get(&shard_of(*id))?.get(id).map(Arc::as_ref)
    }

    pub fn get_mut(&mut self, id: &TrialId) -> Option<&mut TrialState> {
        let shard = self.shards.get_mut(&shard_of(*id))?;
        // A missing entry must not cost a copy.
        if !shard.contains_key(id) {
            return None;
        }
        Arc::make_mut(shard).get_mut(id).map(Arc::make_mut)
    }

    pub fn insert(&mut self, id: TrialId, trial: TrialState) {
        if Arc::make_mut(self.shards.entry(shard_of(id)).or_default())
            .insert(id, Arc::new(trial))
            .is_none()
        {
            self.len += 1;
        }
    }

    pub fn get_or_insert_with(
        &mut self,
        id: TrialId,
        trial: impl FnOnce() -> TrialState,
    ) -> &mut TrialState {
        let entry = Arc::make_mut(self.shards.entry(shard_of(id)).or_default()).entry(id);
        let len = &mut self.len;
        let known = entry.or_insert_with(|| {
            *len += 1;
            Arc::new(trial())
        });
        Arc::make_mut(known)
    }

    /// Returns the trials in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&TrialId, &TrialState)> {
        self.shards
            .values()
            .flat_map(|shard| shard.iter())
            .map(|(id, trial)| (id, &**trial))
    }

    pub fn keys(&self) -> impl Iterator<Item = &TrialId> {
        self.iter().map(|(id, _)| id)
    }

    pub fn values(&self) -> impl Iterator<Item = &TrialState> {
        self.iter().map(|(_, trial)| trial)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut TrialState> {
        self.shards
            .values_mut()
            .flat_map(|shard| Arc::make_mut(shard).values_mut())
            .map(Arc::make_mut)
    }

    /// Returns the ids from this one on, in order.
    pub fn ids_from(&self, first: TrialId) -> impl Iterator<Item = TrialId> {
        let shards = self.shards.range(shard_of(first)..);
        shards
            .flat_map(move |(_, shard)| shard.range(first..))
            .map(|(id, _)| *id)
    }
}

impl Index<&TrialId> for Trials {
    type Output = TrialState;

    fn index(&self, id: &TrialId) -> &TrialState {
        self.get(id).expect("the trial exists")
    }
}

fn shard_of(id: TrialId) -> u16 {
    (id.bits() >> (u64::BITS - SHARD_BITS)) as u16
}

#[cfg(test)]
mod tests {
    use sweep::AttemptNo;

    use super::*;
    use crate::state::Phase;

    fn trial(devices: u32) -> TrialState {
        TrialState {
            phase: Phase::Cancelled,
            wanted_by: Vec::new(),
            attempts: Vec::new(),
            spent: BTreeMap::new(),
            since: AttemptNo(1),
            cost: 0.0,
            devices,
            trainer: Default::default(),
            place: None,
            is_removed: false,
        }
    }

    fn id(number: u64) -> TrialId {
        // Spread over all shards.
        format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .parse()
            .unwrap()
    }

    #[test]
    fn a_clone_does_not_change_with_the_original() {
        let mut trials = Trials::default();
        assert!(trials.is_empty());
        (0..5_000).for_each(|number| trials.insert(id(number), trial(1)));
        assert!(!trials.is_empty());
        let snapshot = trials.clone();
        trials.get_mut(&id(7)).unwrap().devices = 2;
        trials.get_or_insert_with(id(8), || trial(9)).devices = 3;
        trials.get_or_insert_with(id(9_999), || trial(4));
        assert!(trials.get_mut(&id(77_777)).is_none());
        assert_eq!((trials.len(), snapshot.len()), (5_001, 5_000));
        assert!(snapshot.values().all(|trial| trial.devices == 1));
        assert_eq!(
            [7, 8, 9_999].map(|number| trials[&id(number)].devices),
            [2, 3, 4]
        );
        let shared = trials.shards.values().zip(snapshot.shards.values());
        let shared = shared.filter(|(left, right)| Arc::ptr_eq(left, right));
        assert_eq!(
            shared.count(),
            (1 << SHARD_BITS) - 3,
            "only what was touched is copied"
        );
    }

    #[test]
    fn the_order_is_that_of_the_ids() {
        let mut trials = Trials::default();
        let mut ids: Vec<TrialId> = (0..3_000).map(id).collect();
        ids.iter().for_each(|id| trials.insert(*id, trial(1)));
        ids.sort();
        assert!(trials.keys().eq(&ids));
        for first in [ids[0], ids[1_234], ids[2_999]] {
            assert!(
                trials
                    .ids_from(first)
                    .eq(ids.iter().copied().filter(|id| *id >= first))
            );
        }
    }
}
