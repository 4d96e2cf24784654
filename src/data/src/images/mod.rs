//! Single images: decoding, resizing, and the execution of random choices.

pub(crate) mod affine;
pub(crate) mod augment;
pub(crate) mod decode;
pub(crate) mod input_form;
pub(crate) mod metadata;
pub(crate) mod rand_augment;
pub(crate) mod resize;
