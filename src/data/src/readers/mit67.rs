//! MIT Indoor 67: `Images/CLASS/FILE` and two lists of `CLASS/FILE`. Classes are the folders' names, sorted.

use std::collections::HashMap;
use std::path::Path;

use super::{Found, ImageFile, all_there, folder, found, locate, table};
use crate::error::Error;

pub(super) fn find(data_dir: &Path) -> Result<Found, Error> {
    let root = locate("mit67", data_dir, "indoorCVPR_09", "TrainImages.txt", &[])?;
    let lists = vec![root.join("TrainImages.txt"), root.join("TestImages.txt")];
    all_there("mit67", lists.iter())?;
    let images = root.join("Images");
    let names = folder::directories(&images)?;
    let labels: HashMap<&str, u32> = names.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();
    let split = |path: &Path| {
        let file = |line: String| {
            let label = line.split_once('/').and_then(|(class, _)| labels.get(class));
            let label = label.ok_or_else(|| {
                let reason = format!("`{line}` is not CLASS/FILE with a folder of {}", images.display());
                Error::malformed(path, reason)
            })?;
            Ok(ImageFile { path: images.join(&line), label: *label })
        };
        table::lines(path)?.into_iter().map(file).collect::<Result<Vec<_>, Error>>()
    };
    let (train, test) = (split(&lists[0])?, split(&lists[1])?);
    found("mit67", root, names.clone(), names, lists, train, test)
}
