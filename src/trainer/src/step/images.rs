//! How images reach a device: as pixels made by the host, or as bytes from which the device gathers
//! pixels.
//!
//! On the CPU the host makes them (data's augment.rs). A GPU holds the decoded bytes of the whole
//! data set if they fit (`ResidentSets`); otherwise it gets the bytes of each batch through
//! page-locked memory. In both cases crop, shift, flip, erasing, standardising and CutMix are a few
//! operations on the whole batch, with tables that the host makes from the same counters (data's
//! lookup.rs). Resized crops and RandAugment stay on the host. The bits are the same, which a test
//! checks on the CPU. Next: batches.rs.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use data::{Batch, ByteSource, Dataset, Form, Interpolation, Lookup, Pipeline};
use tch::{Device, Kind, Tensor};

use crate::device::shim::{self, CudaMemory};
use crate::step::batches::{ImageShape, upload};

/// Name of the place where pixels are made, for the trial's record.
pub fn site_of(form: Form) -> &'static str {
    match form {
        Form::Pixels => "host",
        Form::Lookup(ByteSource::Batch) => "staged",
        Form::Lookup(ByteSource::Split) => "resident",
    }
}

/// The decoded bytes of data sets, on the devices of this process; kept from trial to trial.
pub struct ResidentSets {
    /// Share of a GPU's memory that this process may take.
    share: f64,
    kept: Mutex<Vec<Resident>>,
}

/// A data set on a device, as uint8 [pixels, channels].
struct Resident {
    device: Device,
    fingerprint: String,
    train: Tensor,
    test: Tensor,
}

impl ResidentSets {
    pub fn new(share: f64) -> Self {
        Self {
            share,
            kept: Mutex::default(),
        }
    }

    /// Returns the form that batches need for replicas on these devices.
    pub fn form(&self, devices: &[usize], pipeline: &Pipeline) -> Form {
        if devices.is_empty() || !pipeline.can_look_up() {
            return Form::Pixels;
        }
        let devices: Vec<Device> = devices.iter().map(|&index| Device::Cuda(index)).collect();
        Form::Lookup(
            self.origin(&devices, pipeline.dataset(), |device| match device {
                Device::Cuda(index) => shim::cuda_memory(index).ok(),
                _ => None,
            }),
        )
    }

    /// Chooses the origin of the pixels. Frees what the previous trial left before asking how much
    /// memory is free; otherwise the answer would depend on that trial.
    fn origin(
        &self,
        devices: &[Device],
        dataset: &Dataset,
        memory_of: impl Fn(Device) -> Option<CudaMemory>,
    ) -> ByteSource {
        let absent: Vec<Device> = {
            let mut kept = self.lock();
            let is_absent = |device: &&Device| find(&kept, **device, dataset).is_none();
            let absent: Vec<Device> = devices.iter().filter(is_absent).copied().collect();
            absent
                .iter()
                .for_each(|&device| give_up_others(&mut kept, dataset, device));
            absent
        };
        let has_room = |&device: &Device| {
            memory_of(device).is_some_and(|memory| fits(num_bytes(dataset), memory, self.share))
        };
        if absent.iter().all(has_room) {
            ByteSource::Split
        } else {
            ByteSource::Batch
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Resident>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a data set's bytes on a device: training and test images.
    pub fn get(&self, device: Device, dataset: &Dataset) -> (Tensor, Tensor) {
        let mut kept = self.lock();
        if let Some(found) = find(&kept, device, dataset) {
            return found;
        }
        give_up_others(&mut kept, dataset, device);
        let put = |bytes: &[u8]| {
            as_pixels(
                Tensor::from_slice(bytes).to_device(device),
                dataset.channels,
            )
        };
        let (train, test) = (put(dataset.train.pixels()), put(dataset.test.pixels()));
        let fingerprint = dataset.fingerprint.clone();
        kept.push(Resident {
            device,
            fingerprint,
            train: train.shallow_clone(),
            test: test.shallow_clone(),
        });
        (train, test)
    }
}

fn find(kept: &[Resident], device: Device, dataset: &Dataset) -> Option<(Tensor, Tensor)> {
    let found = kept
        .iter()
        .find(|set| set.device == device && set.fingerprint == dataset.fingerprint)?;
    Some((found.train.shallow_clone(), found.test.shallow_clone()))
}

/// Drops other data sets, which need not be kept at the same time; on a GPU, returns their memory
/// to the driver.
fn give_up_others(kept: &mut Vec<Resident>, dataset: &Dataset, device: Device) {
    kept.retain(|set| set.fingerprint == dataset.fingerprint);
    if device.is_cuda() {
        let _ = shim::free_cached_cuda_memory();
    }
}

fn num_bytes(dataset: &Dataset) -> u64 {
    (dataset.train.pixels().len() + dataset.test.pixels().len()) as u64
}

/// Returns true if the bytes fit in half of this process's share; the other half is for the
/// training.
fn fits(num_bytes: u64, memory: CudaMemory, share: f64) -> bool {
    let mine = (memory.total as f64 * share) as u64;
    num_bytes <= memory.free.min(mine) / 2
}

fn as_pixels(bytes: Tensor, channels: usize) -> Tensor {
    bytes.view([-1, channels as i64])
}

/// The images of one replica.
pub struct Images {
    pub device: Device,
    shape: ImageShape,
    gather: Option<Gather>,
}

/// Data that a device needs to make pixels.
struct Gather {
    mean: Tensor,
    inverse_std: Tensor,
    /// Pixels for training and evaluation; absent if bytes come with the tables.
    splits: Option<(Tensor, Tensor)>,
}

impl Images {
    pub fn new(
        form: Form,
        sets: &ResidentSets,
        pipeline: &Pipeline,
        shape: ImageShape,
        device: Device,
    ) -> Self {
        let splits = |origin| {
            (origin == ByteSource::Split).then(|| {
                let (train, test) = sets.get(device, pipeline.dataset());
                let evaluated = if pipeline.evaluates_on_train() {
                    train.shallow_clone()
                } else {
                    test
                };
                (train, evaluated)
            })
        };
        let gather = match form {
            Form::Pixels => None,
            Form::Lookup(origin) => {
                let (mean, inverse_std) = pipeline.standardisation();
                let put = |values: &[f32]| Tensor::from_slice(values).to_device(device);
                Some(Gather {
                    mean: put(mean),
                    inverse_std: put(inverse_std),
                    splits: splits(origin),
                })
            }
        };
        Self {
            device,
            shape,
            gather,
        }
    }

    /// Returns some images of a training batch, f32 [images, channels, side, side].
    pub fn train(&self, batch: &Batch, range: Range<usize>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let (Some(gather), Some(lookup)) = (&self.gather, batch.lookup()) else {
            let image_len = self.shape.channels * self.shape.side * self.shape.side;
            let pixels = &batch.pixels()[range.start * image_len..range.end * image_len];
            return self.shape.tensor(pixels, self.device);
        };
        let train = gather.splits.as_ref().map(|(train, _)| train);
        let images = self.render(gather, train, &lookup.own.slice(range.clone()));
        if let (Some(mix), Some(partners)) = (&batch.mix, &lookup.partners) {
            let partners = self.render(gather, train, &partners.slice(range));
            let boxed = |images: &Tensor| {
                let rows = images.narrow(2, mix.rows.0.into(), (mix.rows.1 - mix.rows.0).into());
                rows.narrow(
                    3,
                    mix.columns.0.into(),
                    (mix.columns.1 - mix.columns.0).into(),
                )
            };
            boxed(&images).copy_(&boxed(&partners));
        }
        images
    }

    /// Returns some evaluation images.
    pub fn evaluate(&self, pipeline: &Pipeline, range: Range<usize>) -> Tensor {
        let _guard = tch::no_grad_guard();
        let Some(gather) = &self.gather else {
            let mut pixels = vec![0.0; range.len() * pipeline.image_len()];
            pipeline.fill_eval(range, &mut pixels);
            return self.shape.tensor(&pixels, self.device);
        };
        let split = gather.splits.as_ref().map(|(_, evaluated)| evaluated);
        let origin = if split.is_some() {
            ByteSource::Split
        } else {
            ByteSource::Batch
        };
        self.render(gather, split, &pipeline.look_up_eval(range, origin))
    }

    fn render(&self, gather: &Gather, split: Option<&Tensor>, lookup: &Lookup) -> Tensor {
        let (side, channels) = (self.shape.side as i64, self.shape.channels as i64);
        if lookup.is_empty() {
            return self.shape.tensor(&[], self.device);
        }
        let staged = || {
            as_pixels(
                upload(Tensor::from_slice(&lookup.bytes), self.device),
                self.shape.channels,
            )
        };
        let pixels = split.map_or_else(staged, Tensor::shallow_clone);
        // half the traffic if positions fit in 32 bits
        let kind = if pixels.size()[0] <= i64::from(i32::MAX) {
            Kind::Int
        } else {
            Kind::Int64
        };
        let places = |values: &[i64]| upload(Tensor::from_slice(values).to_kind(kind), self.device);
        let rows = |values: &[i64]| places(values).view([-1, side, 1]);
        let columns = |values: &[i64]| places(values).view([-1, 1, side]);
        let at = |rows: &Tensor, columns: &Tensor| {
            pixels
                .index_select(0, &(rows + columns).view(-1))
                .to_kind(Kind::Float)
        };
        let (first_rows, first_columns) = (rows(&lookup.rows), columns(&lookup.columns));
        let mut values = match &lookup.between {
            None => at(&first_rows, &first_columns),
            Some(Interpolation {
                rows: others,
                columns: other_columns,
                down,
                right,
            }) => {
                let (last_rows, last_columns) = (rows(others), columns(other_columns));
                // one weight for all values of a sample
                let weights =
                    |values: &[f32]| upload(Tensor::from_slice(values), self.device).view([-1, 1]);
                let mix = |from: Tensor, to: Tensor, weight: &Tensor| {
                    let size = from.size();
                    let (from, to) = (
                        from.view([weight.size()[0], -1]),
                        to.view([weight.size()[0], -1]),
                    );
                    (&from + (to - &from) * weight).view(size.as_slice())
                };
                let (right, down) = (weights(right), weights(down));
                let upper = mix(
                    at(&first_rows, &first_columns),
                    at(&first_rows, &last_columns),
                    &right,
                );
                let lower = mix(
                    at(&last_rows, &first_columns),
                    at(&last_rows, &last_columns),
                    &right,
                );
                mix(upper, lower, &down)
            }
        };
        let _ = values.g_sub_(&gather.mean);
        let _ = values.g_mul_(&gather.inverse_std);
        if !lookup.erased.is_empty() {
            let noise = upload(Tensor::from_slice(&lookup.noise), self.device).view([-1, channels]);
            let _ = values.index_copy_(
                0,
                &upload(Tensor::from_slice(&lookup.erased), self.device),
                &noise,
            );
        }
        self.shape.arrange(
            &values
                .view([-1, side, side, channels])
                .permute([0, 3, 1, 2]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_takes_half_of_what_may_be_taken() {
        let memory = CudaMemory {
            free: 100 << 30,
            total: 140 << 30,
            allocated: 0,
        };
        assert!(fits(50 << 30, memory, 1.0) && !fits((50 << 30) + 1, memory, 1.0));
        // a quarter of the GPU: 35 of 140 GiB
        assert!(fits(17 << 30, memory, 0.25) && !fits(18 << 30, memory, 0.25));
        assert!(!fits(
            1 << 30,
            CudaMemory {
                free: 1 << 30,
                ..memory
            },
            1.0
        ));
    }
    /// A device filled by another data set: that one must be freed before the driver is asked for
    /// its free memory.
    #[test]
    fn whether_a_set_is_resident_does_not_depend_on_the_trial_before() {
        let dataset = |name| data::stand_in::dataset(name).unwrap();
        let (digits, photographs) = (dataset("digits"), dataset("folder:photographs"));
        let sets = ResidentSets::new(1.0);
        let memory = |_| {
            let held: i64 = sets
                .lock()
                .iter()
                .map(|set| set.train.numel() as i64 + set.test.numel() as i64)
                .sum();
            let total = 2 * num_bytes(&photographs).max(num_bytes(&digits));
            Some(CudaMemory {
                free: total - held as u64,
                total,
                allocated: held as u64,
            })
        };
        for dataset in [&digits, &photographs, &digits, &digits] {
            assert_eq!(
                sets.origin(&[Device::Cpu], dataset, memory),
                ByteSource::Split
            );
            drop(sets.get(Device::Cpu, dataset));
        }
        assert_eq!(
            sets.origin(&[Device::Cpu], &photographs, |_| None),
            ByteSource::Batch,
            "no device reports free memory"
        );
    }
}
