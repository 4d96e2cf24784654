//! The authors' hierarchies against golden values (tests/fixtures/paper).

use std::collections::BTreeMap;
use std::path::PathBuf;

use data::hierarchy::{ColumnOrder, Hierarchy, unit_sphere};

struct Oracle {
    file: &'static str,
    num_nodes: usize,
    num_leaves: usize,
    /// Number of the first leaf.
    first_leaf: usize,
    root: &'static str,
    /// Pairs of leaves by the height of their lowest common ancestor, from 1.
    pairs: &'static [usize],
    /// Sum of all values of the embeddings, and the first two of row 1.
    sum: Option<f64>,
    row_1: Option<[f64; 2]>,
}

// docs/paper.md, section 5, and tests/fixtures/paper/oracles.json.
const ORACLES: [Oracle; 4] = [
    Oracle {
        file: "cub_flat",
        num_nodes: 368,
        num_leaves: 200,
        first_leaf: 1,
        root: "367",
        pairs: &[206, 947, 7976, 10771],
        sum: Some(603.1880515336379),
        row_1: Some([0.75, 0.6614378277661477]),
    },
    Oracle {
        file: "cub_balanced",
        num_nodes: 421,
        num_leaves: 200,
        first_leaf: 1,
        root: "420",
        pairs: &[206, 849, 2966, 3655, 1453, 2089, 8682],
        sum: Some(625.1992036178829),
        row_1: Some([0.8571428571428572, 0.5150787536377126]),
    },
    Oracle {
        file: "cub_wikispecies",
        num_nodes: 383,
        num_leaves: 200,
        first_leaf: 1,
        root: "243",
        pairs: &[206, 880, 2941, 3652, 1450, 10771],
        sum: None,
        row_1: None,
    },
    Oracle {
        file: "cifar",
        num_nodes: 163,
        num_leaves: 100,
        first_leaf: 0,
        root: "108",
        pairs: &[69, 115, 211, 395, 716, 225, 550, 2669],
        sum: None,
        row_1: None,
    },
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/paper/hierarchies")
}

#[test]
fn the_authors_hierarchies_give_the_golden_values() {
    let folder = folder();
    for oracle in ORACLES {
        let path = folder.join(format!("{}.parent-child.txt", oracle.file));
        let tree = Hierarchy::load(&path, ColumnOrder::ParentChild).unwrap();
        assert_eq!(
            (tree.num_nodes(), tree.root()),
            (oracle.num_nodes, oracle.root),
            "{}",
            oracle.file
        );
        assert_eq!(tree.max_height() as usize, oracle.pairs.len());
        let leaves = tree.leaves();
        let expected: Vec<String> = (0..oracle.num_leaves)
            .map(|leaf| (oracle.first_leaf + leaf).to_string())
            .collect();
        assert_eq!(leaves, expected);
        let mut pairs: BTreeMap<u32, usize> = BTreeMap::new();
        for (index, first) in leaves.iter().enumerate() {
            for second in &leaves[..index] {
                let common = tree.lowest_common_ancestor(first, second).unwrap();
                *pairs.entry(tree.height(common).unwrap()).or_default() += 1;
            }
        }
        assert_eq!(
            pairs.into_values().collect::<Vec<_>>(),
            oracle.pairs,
            "{}",
            oracle.file
        );

        let similarity = tree.similarity(&leaves).unwrap();
        let count = leaves.len();
        let embeddings = unit_sphere(&similarity, count).unwrap();
        for row in 0..count {
            for column in 0..count {
                let dot: f64 = (0..count)
                    .map(|k| embeddings[row * count + k] * embeddings[column * count + k])
                    .sum();
                assert!((dot - similarity[row * count + column]).abs() < 1e-12);
            }
        }
        if let Some(sum) = oracle.sum {
            assert!(
                (embeddings.iter().sum::<f64>() - sum).abs() < 1e-8,
                "{}",
                oracle.file
            );
        }
        if let Some(row) = oracle.row_1 {
            assert!(
                (embeddings[count] - row[0]).abs() < 1e-12
                    && (embeddings[count + 1] - row[1]).abs() < 1e-12
            );
        }
    }
}

#[test]
fn single_rows_and_diagonals_match_the_oracles() {
    let folder = folder();
    let embed = |name: &str| {
        let tree = Hierarchy::load(
            &folder.join(format!("{name}.parent-child.txt")),
            ColumnOrder::ParentChild,
        )
        .unwrap();
        let similarity = tree.similarity(&tree.leaves()).unwrap();
        (unit_sphere(&similarity, 200).unwrap(), similarity)
    };
    let (balanced, similarity) = embed("cub_balanced");
    let row_50 = [
        0.1428571428571429,
        0.039621442587516376,
        0.06823753064526869,
        0.0,
        0.11780214137402303,
        0.03315133747139471,
    ];
    row_50
        .iter()
        .zip(&balanced[50 * 200..])
        .for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} {b}"));
    assert!((balanced[200 * 200 - 1] - 0.43879327821156905).abs() < 1e-12);
    let seventh = 1.0 / 7.0;
    let row_0 = [
        1.0,
        6.0 * seventh,
        4.0 * seventh,
        0.0,
        seventh,
        seventh,
        seventh,
        seventh,
        0.0,
        0.0,
    ];
    row_0
        .iter()
        .zip(&similarity)
        .for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} {b}"));
    let (flat, _) = embed("cub_flat");
    assert!((flat[200 * 200 - 1] - 0.5804394347126306).abs() < 1e-12);
    assert_eq!(flat[50 * 200..50 * 200 + 6], [0.0; 6]);
}
