//! The paper's class hierarchies: files that are fetched like a data set.

use std::path::Path;

use super::{Checksum, Download, file};

/// Name that they are fetched under.
pub const HIERARCHIES: &str = "hierarchies";

macro_rules! address {
    ($file:literal) => {
        concat!(
            "https://raw.githubusercontent.com/cvjena/semantic-embeddings/master/",
            $file
        )
    };
}

pub(crate) const FILES: [Download; 4] = [
    file(
        address!("CUB-Hierarchy/cub_flat.parent-child.txt"),
        Checksum::Sha256("6420979cdd24075ff86297342599ce2f8770ab5fb64845f886a6406670e6d3c5"),
    ),
    file(
        address!("CUB-Hierarchy/cub_wikispecies.parent-child.txt"),
        Checksum::Sha256("b7f69521687b57d804352708ffabd7a973d8b31b3d5b4121db1e444bd678f085"),
    ),
    file(
        address!("CUB-Hierarchy/cub_balanced.parent-child.txt"),
        Checksum::Sha256("cfd823168bc3e73e6ac510008ae89182f1faaafadae1fc3a2c520cd9fd6796ef"),
    ),
    file(
        address!("Cifar-Hierarchy/cifar.parent-child.txt"),
        Checksum::Sha256("72bf4a9ee95ec9ad40ee22b007ca16b0ac232f4c2849aaef8e5d478fc50e28c6"),
    ),
];

/// Returns what `data fetch` must fetch for the file at this path below the data directory:
/// `hierarchies`, or nothing.
pub fn fetched_with(path: &Path) -> Option<&'static str> {
    let name = path.strip_prefix(HIERARCHIES).ok()?;
    FILES
        .iter()
        .any(|file| Path::new(file.file_name()) == name)
        .then_some(HIERARCHIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_a_download_brings_are_promised() {
        assert_eq!(
            fetched_with(Path::new("hierarchies/cifar.parent-child.txt")),
            Some(HIERARCHIES)
        );
        for other in [
            "hierarchies/mine.txt",
            "cifar.parent-child.txt",
            "nabirds/hierarchy.txt",
        ] {
            assert_eq!(fetched_with(Path::new(other)), None, "{other}");
        }
    }
}
