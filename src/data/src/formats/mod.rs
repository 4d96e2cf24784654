//! File formats that data sets come in.

pub(crate) mod class_folders;
pub(crate) mod idx;
pub(crate) mod mat5;
pub(crate) mod pickle;
pub(crate) mod table;
