//! The class of each of some images, by a network that a sweep kept.
//!
//! The file describes itself: settings, classes, and the form of the input are in its metadata
//! (attempt/kept.rs). Computes in f32 on the CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use data::{InputForm, Statistics};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sweep::settings::{Loss, Settings};
use tch::{Device, Kind, Tensor};

use crate::device::collective::Collective;
use crate::device::{self, DeviceSet, process};
use crate::network::nn::Format;
use crate::network::weights::{self, Weights};
use crate::step::batches::ImageShape;
use crate::step::replica::{Blueprint, Replica};

/// A kept network, ready for images.
pub struct Model {
    replica: Replica,
    loss: Loss,
    class_names: Vec<String>,
    form: InputForm,
    shape: ImageShape,
}

/// A network's answer for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub class: String,
    /// Absent for losses that have no probabilities.
    pub probability: Option<f64>,
    /// Score of every class: see predictions.csv.gz.
    pub scores: Vec<f32>,
}

#[derive(Deserialize)]
struct Input {
    channels: usize,
    side: usize,
    resize: Option<u32>,
}

impl Model {
    pub fn open(path: &Path, num_threads: usize) -> anyhow::Result<Self> {
        let metadata = weights::metadata(path)?;
        let read = |name: &str| {
            metadata.get(name).map(String::as_str).with_context(|| {
                format!(
                    "{} does not describe its network (no `{name}`): a file that a sweep with `keep: [weights]` \
                     left is needed",
                    path.display()
                )
            })
        };
        let class_names: Vec<String> = parse("class_names", read("class_names")?)?;
        let input: Input = parse("input", read("input")?)?;
        let statistics = Statistics {
            mean: parse("mean", read("mean")?)?,
            std: parse("std", read("std")?)?,
        };
        anyhow::ensure!(
            statistics.mean.len() == input.channels && statistics.std.len() == input.channels,
            "{}: `mean` and `std` have not one number for each channel",
            path.display()
        );
        let embeddings: Option<Vec<f32>> = match metadata.get("class_embeddings") {
            Some(text) => Some(parse("class_embeddings", text)?),
            None => None,
        };
        let settings = Settings {
            weights: None,
            replicas: 1,
            ..parse("settings", read("settings")?)?
        };
        let devices = DeviceSet::Cpu { num_threads };
        let deadline = Duration::from_secs(600);
        let (collective, _) = devices.group(1, deadline)?.remove(0);
        let collective: Arc<dyn Collective> = Arc::from(collective);
        device::prepare_thread(Device::Cpu, true, device::CUDNN_CANDIDATES)?;
        tch::set_num_threads(num_threads as i32);
        let blueprint = Blueprint {
            settings: &settings,
            seed: 0,
            channels: input.channels,
            num_classes: class_names.len(),
            embeddings: embeddings.as_deref(),
            format: Format { bf16: false },
            deadline,
        };
        let mut replica = Replica::new(&blueprint, collective, Device::Cpu)
            .map_err(|error| anyhow::anyhow!(error.failure().message))?;
        let weights = Weights::read(path, &replica.inventory, &[])?;
        weights.load_into(&replica.inventory, &mut replica.storage);
        Ok(Self {
            replica,
            loss: settings.loss,
            class_names,
            form: InputForm {
                side: input.side,
                resize: input.resize,
                statistics,
            },
            shape: ImageShape {
                channels: input.channels,
                side: input.side,
            },
        })
    }

    pub fn predict(&self, image: &Path) -> anyhow::Result<Prediction> {
        let _guard = tch::no_grad_guard();
        let pixels = self.form.read(image)?;
        let images = self.shape.tensor(&pixels, Device::Cpu);
        let label = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
        let scores = self.replica.evaluate(&images, &label).scores;
        let class = scores.argmax(1, false).int64_value(&[0]) as usize;
        let probabilities = match self.loss {
            Loss::Xent | Loss::CosXent | Loss::CosXentDirect => {
                Some(scores.softmax(1, Kind::Double))
            }
            Loss::Mse | Loss::Cos => None,
        };
        Ok(Prediction {
            class: self.class_names[class].clone(),
            probability: probabilities
                .map(|probabilities| probabilities.double_value(&[0, class as i64])),
            scores: Vec::try_from(scores.view(-1)).expect("f32 on the CPU"),
        })
    }
}

fn parse<T: DeserializeOwned>(name: &str, text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text)
        .with_context(|| format!("the description of the network has a bad `{name}`"))
}

/// Prints a line of JSON for each image.
pub fn print(model: &Path, images: &[PathBuf], num_threads: usize) -> anyhow::Result<()> {
    let model = Model::open(model, num_threads)?;
    for image in images {
        let Prediction {
            class,
            probability,
            scores,
        } = model.predict(image)?;
        let scores: serde_json::Map<_, _> = model
            .class_names
            .iter()
            .zip(scores)
            .map(|(name, score)| (name.clone(), json!(score)))
            .collect();
        let line = json!({
            "image": image,
            "class": class,
            "probability": probability,
            "scores": scores,
        });
        process::print(&line.to_string())?;
    }
    Ok(())
}
