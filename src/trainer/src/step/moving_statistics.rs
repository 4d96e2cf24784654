//! The moving statistics of batch normalisation: the weight of a new batch in them, and the
//! operation that adds it.
//!
//! On the CPU the forward pass adds a batch's statistics. On a GPU a separate operation does, with
//! a weight that lies on the device, because a recorded step would keep a number of the host.
//! Synchronised statistics are those of the whole batch, summed over replicas within the forward
//! pass. Next: replica.rs.

use std::sync::Arc;

use sweep::Settings;
use sweep::settings::{BatchNorm, Init};
use tch::{Device, Kind, Tensor};

use crate::device::collective::Collective;
use crate::network::nn::{Inventory, StatisticsReduction, Storage};
use crate::step::optimiser::Group;
use crate::step::synchronised_statistics::BatchStatistics;

pub struct MovingStatistics {
    average: MovingAverage,
    added: Added,
}

/// The operation that adds a batch's statistics to the moving ones.
enum Added {
    InForwardPass,
    /// `value` is the number that `weight` holds.
    WithWeightOnDevice {
        value: f64,
        weight: Tensor,
    },
    OverAllReplicas(BatchStatistics),
}

impl MovingStatistics {
    pub fn new(settings: &Settings, collective: &Arc<dyn Collective>) -> Self {
        let synchronised = collective.size() > 1 && settings.batch_norm == BatchNorm::Synchronised;
        Self {
            average: MovingAverage::of(settings),
            added: if synchronised {
                Added::OverAllReplicas(BatchStatistics::new(collective.clone()))
            } else {
                Added::InForwardPass
            },
        }
    }

    pub fn is_synchronised(&self) -> bool {
        matches!(self.added, Added::OverAllReplicas(_))
    }

    /// Adds statistics by a separate operation from now on, unless they are synchronised. It rounds
    /// differently from libtorch's batch normalisation, so a trial must not switch between the two:
    /// a GPU always uses this one.
    pub fn keep_weight_on_device(
        &mut self,
        storage: &mut Storage<Group>,
        inventory: &Inventory,
        device: Device,
    ) {
        if matches!(self.added, Added::InForwardPass) {
            storage.set_batch_statistics_apart(inventory);
            self.added = Added::WithWeightOnDevice {
                value: 0.0,
                weight: Tensor::zeros([], (Kind::Float, device)),
            };
        }
    }

    /// Copies the weight of the next batch to the device, if it is kept there.
    pub fn prepare(&mut self, steps_made: u64) {
        let next = self.weight(steps_made);
        if let Added::WithWeightOnDevice { value, weight } = &mut self.added
            && *value != next
        {
            *value = next;
            let _ = weight.fill_(next);
        }
    }

    /// Returns the weight of a batch after `steps_made` others.
    pub fn weight(&self, steps_made: u64) -> f64 {
        self.average.momentum(steps_made)
    }

    pub fn weight_on_device(&self) -> Option<&Tensor> {
        match &self.added {
            Added::WithWeightOnDevice { weight, .. } => Some(weight),
            Added::InForwardPass | Added::OverAllReplicas(_) => None,
        }
    }

    /// Must be called before each pass; the length is that of the whole batch.
    pub fn set_batch_len(&mut self, batch_len: usize) {
        if let Added::OverAllReplicas(statistics) = &mut self.added {
            statistics.set_batch_len(batch_len);
        }
    }

    /// Returns the sum over replicas that synchronised batch normalisation uses.
    pub fn reduction(&self) -> Option<&dyn StatisticsReduction> {
        match &self.added {
            Added::OverAllReplicas(statistics) => Some(statistics),
            Added::InForwardPass | Added::WithWeightOnDevice { .. } => None,
        }
    }

    /// Keeps the same operations in another group.
    pub fn change_group(&mut self, collective: &Arc<dyn Collective>) {
        if self.is_synchronised() {
            self.added = Added::OverAllReplicas(BatchStatistics::new(collective.clone()));
        }
    }
}

/// Weight of a new batch in the moving statistics of batch normalisation.
#[derive(Clone, Copy, Debug)]
struct MovingAverage {
    momentum: f64,
    /// Keras removes the bias of a moving average that starts at zero: after t batches the weight
    /// of the newest is m / (1 - (1 - m)^t), so that the first batch counts fully and the start
    /// value not at all, even from a file.
    debiased: bool,
}

impl MovingAverage {
    fn of(settings: &Settings) -> Self {
        Self {
            momentum: settings.batch_norm_momentum,
            debiased: settings.init == Init::Keras,
        }
    }

    fn momentum(self, steps_made: u64) -> f64 {
        if !self.debiased {
            return self.momentum;
        }
        let seen = (steps_made + 1) as f64;
        self.momentum / (1.0 - (1.0 - self.momentum).powf(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debiased_average_is_the_mean_weighted_by_age() {
        let average = MovingAverage {
            momentum: 0.01,
            debiased: true,
        };
        let values = [3.0, -1.0, 4.0, 1.5];
        let mut moving = 99.0;
        let (mut weighted, mut weights) = (0.0, 0.0);
        for (step, value) in values.into_iter().enumerate() {
            moving += (value - moving) * average.momentum(step as u64);
            weighted = weighted * 0.99 + value * 0.01;
            weights = weights * 0.99 + 0.01;
        }
        assert!(
            (moving - weighted / weights).abs() < 1e-9,
            "{moving} {}",
            weighted / weights
        );
    }
}
