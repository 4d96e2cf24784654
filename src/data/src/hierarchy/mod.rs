//! Class hierarchies, and the unit vectors whose inner products are the similarities of classes
//! (Barz and Denzler, "Hierarchy-based Image Embeddings for Semantic Image Retrieval", WACV 2019).
//!
//! Pure except for `Hierarchy::load` and `class_embeddings`, which read one file. Trees only: a
//! node with several parents is refused. Errors name lines and never quote them, because a sweep
//! may name a file that it must not read. See `tree.rs` for files and heights, `embedding.rs` for
//! the vectors.

mod embedding;
mod tree;

pub use embedding::{class_embeddings, stand_in_embeddings, unit_sphere};
pub use tree::{ColumnOrder, Hierarchy};

use std::path::PathBuf;

/// A problem with a hierarchy or its file. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the hierarchy's file")]
    File(#[source] crate::Error),
    /// Another error, with the file in which it was found.
    #[error("hierarchy {path}", path = path.display())]
    InFile { path: PathBuf, source: Box<Error> },
    #[error("line {line}: two ids were expected, it has {found}")]
    BadLine { line: usize, found: usize },
    #[error("it holds no edges")]
    Empty,
    #[error(
        "line {line}: its child has another parent in line {first} already; only trees are supported"
    )]
    SeveralParents { line: usize, first: usize },
    #[error("line {line}: the same edge is in line {first} already")]
    RepeatedEdge { line: usize, first: usize },
    /// The lines of the edges, each leading to the next.
    #[error("its nodes form a cycle: lines {lines}")]
    Cycle { lines: String },
    #[error(
        "it has {count} roots (first named in lines {lines}); a single one is needed (is the order of the columns right? \
         see `child_parent`, or --child-parent)"
    )]
    SeveralRoots { count: usize, lines: String },
    #[error("`{name}` is not in it")]
    UnknownClass { name: String },
    #[error(
        "{count} of the data set's {total} classes are not in it, by id or by name; the first is `{id}` ({name})"
    )]
    MissingClasses {
        count: usize,
        total: usize,
        id: String,
        name: String,
    },
    #[error("class `{name}` is there twice")]
    RepeatedClass { name: String },
    /// Occurs only if a class is an inner node of the tree.
    #[error(
        "the similarities of class `{name}` to the classes before it cannot be inner products: is it an inner node?"
    )]
    NoEmbedding { name: String },
}
