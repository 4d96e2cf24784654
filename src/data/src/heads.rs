//! Facts from the heads of image files, without decoding any: for sizes that follow the images, and
//! for proposals of a sweep.

use std::io::Read;

use rayon::prelude::*;

use crate::catalog::found::{Content, ImageFile};
use crate::error::Error;
use crate::files;
use crate::images::metadata::{self, Head};
use crate::open::{OpenRequest, find};

/// Number of files sampled for the typical size of images.
const SAMPLED_FILES: usize = 400;
/// Bytes of a file that are read, at first and if they do not hold the whole head: photographs
/// carry previews before it.
const HEAD_BYTES: [u64; 2] = [1 << 16, 1 << 20];

/// The images of a data set by their heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// Shorter sides in pixels, sorted, of all images that have a head.
    pub sides: Vec<u32>,
    /// Number of images without colours.
    pub grey: usize,
    /// Number of training images per class that have a head.
    pub train_counts: Vec<usize>,
    /// Files that are no images, or end in their heads: paths below the data set's folder.
    pub unreadable: Vec<String>,
}

/// Returns the typical shorter side of the training images, in pixels: the median over files
/// sampled evenly from all of them, by their heads alone. `None` for data sets whose images have
/// one fixed size.
pub fn typical_side(request: &OpenRequest) -> Result<Option<u32>, Error> {
    let Content::Files { train, .. } = find(request)?.content else {
        return Ok(None);
    };
    let count = train.len().min(SAMPLED_FILES);
    let sampled: Vec<&ImageFile> = (0..count)
        .map(|index| &train[index * train.len() / count])
        .collect();
    let heads = sampled
        .par_iter()
        .map(|file| head(file))
        .collect::<Result<Vec<_>, Error>>()?;
    let heads = heads.into_iter().flatten();
    let mut sides: Vec<u32> = heads.map(Head::shorter_side).collect();
    sides.sort_unstable();
    Ok(sides.get(sides.len() / 2).copied())
}

/// Looks at the head of every image of a data set. `None` for data sets whose images have one fixed
/// size.
pub fn heads(request: &OpenRequest) -> Result<Option<Heads>, Error> {
    let found = find(request)?;
    if matches!(found.content, Content::Arrays(_)) {
        return Ok(None);
    }
    let images: Vec<(&str, &ImageFile)> = found.images().collect();
    let looked_at = images
        .par_iter()
        .map(|(_, file)| head(file))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut heads = Heads {
        train_counts: vec![0; found.class_names.len()],
        ..Heads::default()
    };
    for ((split, file), head) in images.into_iter().zip(looked_at) {
        match head {
            Some(head) => {
                heads.sides.push(head.shorter_side());
                heads.grey += usize::from(head.is_grey);
                heads.train_counts[file.label as usize] += usize::from(split == "train");
            }
            None => {
                let root = found.root.as_deref();
                let below = root.and_then(|root| file.path.strip_prefix(root).ok());
                let path = below.unwrap_or(&file.path);
                heads.unreadable.push(path.display().to_string());
            }
        }
    }
    heads.sides.sort_unstable();
    Ok(Some(heads))
}

fn head(file: &ImageFile) -> Result<Option<Head>, Error> {
    for limit in HEAD_BYTES {
        let mut bytes = Vec::new();
        files::open(&file.path)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &file.path))?;
        let head = metadata::head(&bytes);
        if head.is_some() || (bytes.len() as u64) < limit {
            return Ok(head);
        }
    }
    Ok(None)
}
