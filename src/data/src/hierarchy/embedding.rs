//! Exact unit-sphere embeddings: the Cholesky factor L of the similarity matrix S = L L^T
//! (docs/paper.md, section 5).
//!
//! Row i is the embedding of class i: non-zero in its first i + 1 values, the last of which is
//! positive, and of length
//! 1. The order of the classes only rotates the vectors.

use std::path::Path;

use super::{ColumnOrder, Error, Hierarchy};

/// Smallest remainder of a unit vector whose square root is more than rounding noise.
const SMALLEST_REMAINDER: f64 = 1e-9;

/// Computes embeddings from similarities, both row-major `n x n`. The error holds the first row
/// without an embedding.
pub fn unit_sphere(similarity: &[f64], num_classes: usize) -> Result<Vec<f64>, usize> {
    assert_eq!(
        similarity.len(),
        num_classes * num_classes,
        "the matrix is square"
    );
    let mut factor = vec![0.0; num_classes * num_classes];
    for row in 0..num_classes {
        let (above, current) = factor.split_at_mut(row * num_classes);
        let mut remainder = similarity[row * num_classes + row];
        for column in 0..row {
            let other = &above[column * num_classes..][..=column];
            let dot: f64 = other[..column]
                .iter()
                .zip(&current[..column])
                .map(|(a, b)| a * b)
                .sum();
            let value = (similarity[row * num_classes + column] - dot) / other[column];
            current[column] = value;
            remainder -= value * value;
        }
        if remainder.is_nan() || remainder <= SMALLEST_REMAINDER {
            return Err(row);
        }
        current[row] = remainder.sqrt();
    }
    Ok(factor)
}

/// Returns the embeddings of a data set's classes, row-major `n x n`, one row per class in the
/// given order. Classes are looked up by id, or by name if the hierarchy lacks some of the ids.
/// Other leaves of the hierarchy only affect its height.
pub fn class_embeddings(
    path: &Path,
    child_parent: bool,
    class_ids: &[String],
    class_names: &[String],
) -> Result<Vec<f32>, Error> {
    let order = if child_parent {
        ColumnOrder::ChildParent
    } else {
        ColumnOrder::ParentChild
    };
    let hierarchy = Hierarchy::load(path, order)?;
    let embed = || {
        let classes = look_up(&hierarchy, class_ids, class_names)?;
        let similarity = hierarchy.similarity(&classes)?;
        unit_sphere(&similarity, classes.len()).map_err(|row| Error::NoEmbedding {
            name: classes[row].to_owned(),
        })
    };
    let embeddings = embed().map_err(|error| Error::InFile {
        path: path.to_owned(),
        source: Box::new(error),
    })?;
    Ok(embeddings.iter().map(|&value| value as f32).collect())
}

fn look_up<'a>(
    hierarchy: &Hierarchy,
    ids: &'a [String],
    names: &'a [String],
) -> Result<Vec<&'a str>, Error> {
    for candidates in [ids, names] {
        if candidates.iter().all(|id| hierarchy.contains(id)) {
            return Ok(candidates.iter().map(String::as_str).collect());
        }
    }
    let missing: Vec<usize> = (0..ids.len())
        .filter(|&class| !hierarchy.contains(&ids[class]))
        .collect();
    let class = missing[0];
    let name = names.get(class).cloned().unwrap_or_default();
    Err(Error::MissingClasses {
        count: missing.len(),
        total: ids.len(),
        id: ids[class].clone(),
        name,
    })
}

/// Returns the embeddings of a binary tree over `num_classes` classes, as balanced as possible: for
/// rehearsals without files.
pub fn stand_in_embeddings(num_classes: usize) -> Vec<f32> {
    if num_classes < 2 {
        return vec![1.0; num_classes];
    }
    // Leaf k hangs below the binary prefixes of k: lowest common ancestors are shared prefixes.
    let levels = usize::BITS - (num_classes - 1).leading_zeros();
    let mut similarity = vec![1.0; num_classes * num_classes];
    for row in 0..num_classes {
        for column in (0..num_classes).filter(|&column| column != row) {
            let height = usize::BITS - (row ^ column).leading_zeros();
            similarity[row * num_classes + column] = 1.0 - f64::from(height) / f64::from(levels);
        }
    }
    let embeddings =
        unit_sphere(&similarity, num_classes).expect("the classes are leaves of a tree");
    embeddings.iter().map(|&value| value as f32).collect()
}
