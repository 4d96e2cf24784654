//! Oxford Flowers-102: `jpg/image_%05d.jpg`, labels and splits in .mat files. As in the paper, the
//! training and validation splits together are trained on (2,040 images), in this order. The files
//! contain no class names.

use std::path::Path;

use super::cars::numbers_from_one;
use super::{Found, ImageFile, all_there, found, locate};
use crate::error::Error;
use crate::mat5;

pub(super) fn find(data_dir: &Path) -> Result<Found, Error> {
    let root = locate("flowers", data_dir, "flowers-102", "setid.mat", &[])?;
    let (labels_path, splits_path) = (root.join("imagelabels.mat"), root.join("setid.mat"));
    let lists = vec![labels_path.clone(), splits_path.clone()];
    all_there("flowers", lists.iter())?;
    let labels = mat5::read(&labels_path)?.ordinals(&labels_path, "labels")?;
    let num_classes = labels.iter().copied().max().unwrap_or(0);
    // A forged label must not create a list of a billion class names.
    if num_classes > labels.len() {
        let reason = format!("it has class {num_classes} among {} labels", labels.len());
        return Err(Error::malformed(&labels_path, reason));
    }
    let splits = mat5::read(&splits_path)?;
    let split = |name: &str| {
        let file = |id: usize| match labels.get(id - 1) {
            Some(&label) => Ok(ImageFile {
                path: root.join(format!("jpg/image_{id:05}.jpg")),
                label: label as u32 - 1,
            }),
            None => Err(Error::malformed(
                &splits_path,
                format!("`{name}` names image {id}, which has no label"),
            )),
        };
        splits
            .ordinals(&splits_path, name)?
            .into_iter()
            .map(file)
            .collect::<Result<Vec<_>, Error>>()
    };
    let train = [split("trnid")?, split("valid")?].concat();
    let test = split("tstid")?;
    let ids = numbers_from_one(num_classes);
    found("flowers", root, ids.clone(), ids, lists, train, test)
}
