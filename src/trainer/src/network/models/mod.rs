//! The networks by name: backbones from images to pooled features, without their last fully
//! connected layer.
//!
//! Parameters carry torchvision's names, so that weight files can be exchanged; the CIFAR forms,
//! which torchvision lacks, are named alike. Nothing here allocates, draws or knows a loss. Any
//! channel count and any image side work. Read cifar.rs for small images, imagenet.rs for large
//! ones. Parameter counts and values: golden_tests.rs.

mod cifar;
mod efficientnet;
#[cfg(test)]
mod golden_tests;
mod imagenet;
#[cfg(test)]
mod step_tests;
mod wide;

use sweep::settings::Model;

use crate::network::nn::{Builder, Network};

/// Declares the parameters of a backbone for images of `channels` channels and returns its forward
/// pass.
pub fn build(model: Model, builder: &Builder, channels: i64) -> Network {
    match model {
        Model::Resnet8 => cifar::original(1, channels, builder),
        Model::Resnet20 => cifar::original(3, channels, builder),
        Model::Resnet32 => cifar::original(5, channels, builder),
        Model::Resnet56 => cifar::original(9, channels, builder),
        Model::Resnet110 => cifar::original(18, channels, builder),
        Model::Resnet110Wfc => cifar::wide(channels, builder),
        Model::Resnet18 => imagenet::basic([2, 2, 2, 2], channels, builder),
        Model::Resnet34 => imagenet::basic([3, 4, 6, 3], channels, builder),
        Model::Resnet50 => imagenet::bottleneck(imagenet::Variant::Torchvision, channels, builder),
        Model::Resnet50Keras => imagenet::bottleneck(imagenet::Variant::Keras, channels, builder),
        Model::Resnet50Fconv => {
            imagenet::bottleneck(imagenet::Variant::FullConvolution, channels, builder)
        }
        Model::EfficientnetB0 => efficientnet::b0(channels, builder),
        Model::WideResnet16x2 => wide::sixteen_layers(2, channels, builder),
        Model::WideResnet16x8 => wide::sixteen_layers(8, channels, builder),
    }
}

/// Returns torchvision's name of the last fully connected layer; the trainer's head takes this
/// place in the name tree.
pub fn classifier_name(model: Model) -> &'static str {
    match model {
        Model::EfficientnetB0 => "classifier.1",
        Model::Resnet8
        | Model::Resnet20
        | Model::Resnet32
        | Model::Resnet56
        | Model::Resnet110
        | Model::Resnet110Wfc
        | Model::Resnet18
        | Model::Resnet34
        | Model::Resnet50
        | Model::Resnet50Keras
        | Model::Resnet50Fconv
        | Model::WideResnet16x2
        | Model::WideResnet16x8 => "fc",
    }
}
