//! Recorded steps equal queued ones, bit for bit. The test recorder keeps the values that the host
//! had when it recorded, as a CUDA graph does, and repeats the work with them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sweep::Settings;
use sweep::settings::{BatchNorm, Init, Loss, Model};
use tch::{Device, Kind, Tensor};

use crate::device::collective::{Collective, Solo};
use crate::device::recorder::{Body, Recorder, Recording};
use crate::error::TrialError;
use crate::network::nn::Format;
use crate::step::cuda_graph_steps::{HostValues, Policy, StepRecorder};
use crate::step::replica::{Blueprint, Replica, Shard, StepOptions};

const DEADLINE: Duration = Duration::from_secs(60);

type Log = Rc<RefCell<Vec<&'static str>>>;

/// A recorder that fails the given recording, counted from 1.
struct Fake {
    log: Log,
    fails_at: usize,
}

struct FakeRecording {
    log: Log,
    values: HostValues,
    name: &'static str,
}

impl Recorder<HostValues, TrialError> for Fake {
    fn record(
        &self,
        with: Option<&dyn Recording<HostValues, TrialError>>,
        values: HostValues,
        _: Body<HostValues, TrialError>,
    ) -> Result<Box<dyn Recording<HostValues, TrialError>>, TrialError> {
        let (begun, name) = if with.is_some() {
            ("record update", "update")
        } else {
            ("record passes", "passes")
        };
        self.log.borrow_mut().push(begun);
        let recordings = self
            .log
            .borrow()
            .iter()
            .filter(|entry| entry.starts_with("record"))
            .count();
        if recordings == self.fails_at {
            return Err(TrialError::Crashed(
                "operation not permitted when stream is capturing".to_owned(),
            ));
        }
        Ok(Box::new(FakeRecording {
            log: self.log.clone(),
            values,
            name,
        }))
    }
}

impl Recording<HostValues, TrialError> for FakeRecording {
    fn replay(&mut self, body: Body<HostValues, TrialError>) -> Result<(), TrialError> {
        self.log.borrow_mut().push(self.name);
        body(self.values)
    }
}

fn settings() -> Settings {
    let settings = sweep::recipe::settings("quick", "digits").expect("a recipe");
    // Keras' moving averages weigh every step's batch differently
    let init = Init::Keras;
    Settings {
        model: Model::Resnet8,
        loss: Loss::CosXent,
        init,
        batch_norm: BatchNorm::PerReplica,
        ..settings
    }
}

fn shard(len: i64, step: i64, device: Device) -> Shard {
    let numbers = Tensor::arange(len * 3 * 64, (Kind::Float, Device::Cpu)) + (step * 1000) as f64;
    let images = ((&numbers * 0.37).sin() + (&numbers * 0.011).cos()).view([len, 3, 8, 8]);
    let labels = (Tensor::arange(len, (Kind::Int64, Device::Cpu)) + step).remainder(4);
    let (images, labels) = (images.to_device(device), labels.to_device(device));
    let mixed = (step == 9).then(|| (labels.flip([0]), 0.7));
    Shard {
        images,
        labels,
        mixed,
        batch_len: len as usize,
    }
}

/// The state after twelve steps of changing batch lengths and learning rates.
struct Trained {
    /// Weights, momentum and moving statistics.
    state: [Vec<f32>; 3],
    loss: f64,
    execution: String,
    num_collectives: u64,
}

fn train(device: Device, recorder: Box<StepRecorder>, policy: Policy) -> Trained {
    tch::set_num_threads(1);
    let settings = settings();
    let format = Format { bf16: true };
    let blueprint = Blueprint {
        settings: &settings,
        seed: 5,
        channels: 3,
        num_classes: 4,
        embeddings: None,
        format,
        deadline: DEADLINE,
    };
    let collective = Arc::new(Solo::default());
    let replica = Replica::new(&blueprint, collective.clone(), device).unwrap();
    let mut replica = replica.with_recorder(recorder, policy);
    for step in 0..12 {
        let learning_rate = 0.1 / (step + 1) as f64;
        let options = StepOptions {
            learning_rate,
            steps_made: step as u64,
            new_layers_only: step == 0,
        };
        // every fifth batch is short, the last is a single image
        let len = match step {
            11 => 1,
            4 | 9 => 3,
            _ => 6,
        };
        replica
            .train_step(&shard(len, step, device), options)
            .unwrap();
    }
    let storage = &replica.storage;
    let values = |tensor: &Tensor| Vec::<f32>::try_from(&tensor.to_device(Device::Cpu)).unwrap();
    Trained {
        loss: replica.loss_sum().unwrap(),
        state: [&storage.weights, &storage.momentum, &storage.statistics].map(values),
        execution: replica.execution(),
        num_collectives: collective.num_completed(),
    }
}

/// Trains on the CPU with the test recorder; also returns the calls that it received.
fn pretend(policy: Policy, fails_at: usize) -> (Trained, Vec<&'static str>) {
    let log = Log::default();
    let trained = train(
        Device::Cpu,
        Box::new(Fake {
            log: log.clone(),
            fails_at,
        }),
        policy,
    );
    (trained, log.take())
}

#[test]
fn recorded_steps_are_the_queued_ones_bit_for_bit() {
    let (queued, log) = pretend(Policy::Never, 0);
    assert_eq!(
        (log.len(), queued.execution.as_str()),
        (0, "queued: on request")
    );
    let (recorded, log) = pretend(Policy::Always, 0);
    let same = recorded.state == queued.state && recorded.loss == queued.loss;
    assert!(
        same,
        "a step reads something from the host that a recording freezes"
    );
    // steps 1, 2 and 3 warm up; 0 (head only), 4 (short), 9 (mixed and short) and 11 (one image)
    // cannot be recorded
    let expected = ["record passes", "record update"]
        .into_iter()
        .chain(["passes", "update"].repeat(5));
    assert_eq!(log, expected.collect::<Vec<_>>());
    assert_eq!(
        (recorded.execution.as_str(), recorded.num_collectives),
        ("recorded", 12)
    );
}

#[test]
fn a_recording_that_fails_costs_nothing_but_itself() {
    let (queued, _) = pretend(Policy::Never, 0);
    for fails_at in [1, 2] {
        let (fallen_back, log) = pretend(Policy::Always, fails_at);
        assert!(
            fallen_back.state == queued.state && fallen_back.loss == queued.loss,
            "failed at {fails_at}"
        );
        assert_eq!(
            log.len(),
            fails_at,
            "tried once and replayed never: {log:?}"
        );
        let reason = "queued: a recording failed: operation not permitted when stream is capturing";
        assert_eq!(fallen_back.execution, reason);
    }
}

/// The real recorder, with kernels that give the same bits in every run.
#[test]
#[ignore = "needs a GPU"]
fn on_a_gpu_recorded_steps_are_the_queued_ones() {
    assert!(crate::device::num_gpus() > 0, "this machine has no GPU");
    crate::device::process::fix_cublas_workspace();
    let device = Device::Cuda(0);
    crate::device::prepare_thread(device, true, 1).unwrap();
    let graphs = || Box::new(crate::device::cuda::CudaGraphs::open(0).unwrap());
    let queued = train(device, graphs(), Policy::Never);
    let again = train(device, graphs(), Policy::Never);
    assert!(
        again.state == queued.state,
        "queued steps alone are not repeatable here"
    );
    let recorded = train(device, graphs(), Policy::Always);
    assert_eq!(recorded.execution, "recorded");
    assert!(recorded.state == queued.state && recorded.loss == queued.loss);
}
