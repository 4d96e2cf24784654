//! Class hierarchies, and the unit vectors whose inner products are the similarities of classes (Barz and Denzler,
//! "Hierarchy-based Image Embeddings for Semantic Image Retrieval", WACV 2019).
//!
//! Pure but for `Hierarchy::load` and `class_embeddings`, which read one file. Trees only: a node with several parents
//! is refused. Read `tree.rs` for files and heights, `embedding.rs` for the vectors.

mod embedding;
mod tree;

pub use embedding::{class_embeddings, stand_in_embeddings, unit_sphere};
pub use tree::{Hierarchy, Order};

use std::path::PathBuf;

/// Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the hierarchy {path}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// Wraps any of the others with the file they were found in.
    #[error("hierarchy {path}", path = path.display())]
    InFile { path: PathBuf, source: Box<Error> },
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("line {line}: two ids were expected, `{text}` has {found}")]
    BadLine { line: usize, text: String, found: usize },
    #[error("it holds no edges")]
    Empty,
    #[error(
        "line {line}: `{child}` is given the parent `{second}`, but has `{first}` already; only trees are supported"
    )]
    SeveralParents { line: usize, child: String, first: String, second: String },
    #[error("line {line}: the edge from `{parent}` to `{child}` is there twice")]
    RepeatedEdge { line: usize, parent: String, child: String },
    #[error("its nodes form a cycle: {nodes}")]
    Cycle { nodes: String },
    #[error(
        "it has {count} roots ({roots}); a single one is needed (is the order of the columns right? see --child-parent)"
    )]
    SeveralRoots { count: usize, roots: String },
    #[error("`{name}` is not in it")]
    UnknownClass { name: String },
    #[error("{count} of the data set's {total} classes are not in it, by id or by name; the first is `{id}` ({name})")]
    MissingClasses { count: usize, total: usize, id: String, name: String },
    #[error("class `{name}` is there twice")]
    RepeatedClass { name: String },
    /// Happens only when a class is an inner node of the tree.
    #[error(
        "the similarities of class `{name}` to the classes before it cannot be inner products: is it an inner node?"
    )]
    NoEmbedding { name: String },
}
