//! Data sets: readers of the real on-disk formats, download, the decode-once cache, subsets, augmentation, batches.
//! No libtorch: pixels leave as plain slices.
