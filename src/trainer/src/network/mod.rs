//! Networks: their layers and flat storage (nn/), the models (models/), and weights in files
//! (weights/).
//!
//! A network is a function of images and storage; losses and updates are in step/. Read nn/mod.rs.

pub mod gradients;
pub mod models;
pub mod nn;

pub mod weights;
