//! A tree small enough to compute by hand, and every kind of error in a file.

use data::hierarchy::{
    ColumnOrder, Error, Hierarchy, class_embeddings, stand_in_embeddings, unit_sphere,
};

/// animal -> (bird -> (owl, hawk), dog)
const TREE: &str = "animal bird\nanimal dog\n\nbird owl\nbird\thawk\n";

fn tree() -> Hierarchy {
    Hierarchy::parse(TREE, ColumnOrder::ParentChild).unwrap()
}

fn refuse(text: &str) -> Error {
    Hierarchy::parse(text, ColumnOrder::ParentChild).unwrap_err()
}

#[test]
fn heights_ancestors_and_similarities() {
    let tree = tree();
    assert_eq!(
        (tree.num_nodes(), tree.root(), tree.max_height()),
        (5, "animal", 2)
    );
    assert_eq!(
        (
            tree.height("bird").unwrap(),
            tree.height("owl").unwrap(),
            tree.depth("owl").unwrap()
        ),
        (1, 0, 2)
    );
    assert_eq!(tree.leaves(), ["dog", "hawk", "owl"]);
    assert_eq!(tree.lowest_common_ancestor("owl", "hawk").unwrap(), "bird");
    assert_eq!(tree.lowest_common_ancestor("owl", "dog").unwrap(), "animal");
    assert_eq!(tree.lowest_common_ancestor("owl", "bird").unwrap(), "bird");
    let similarity = tree.similarity(&["owl", "hawk", "dog"]).unwrap();
    assert_eq!(similarity, [1.0, 0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn embeddings_are_worked_out_by_hand() {
    let similarity = tree().similarity(&["owl", "hawk", "dog"]).unwrap();
    let embeddings = unit_sphere(&similarity, 3).unwrap();
    let expected = [1.0, 0.0, 0.0, 0.5, 0.75f64.sqrt(), 0.0, 0.0, 0.0, 1.0];
    embeddings
        .iter()
        .zip(expected)
        .for_each(|(a, b)| assert!((a - b).abs() < 1e-15, "{embeddings:?}"));
}

#[test]
fn child_parent_lines_give_the_same_tree() {
    let turned: String = TREE
        .lines()
        .filter_map(|line| line.split_once([' ', '\t']))
        .fold(String::new(), |text, (p, c)| text + &format!("{c} {p}\n"));
    let tree = Hierarchy::parse(&turned, ColumnOrder::ChildParent).unwrap();
    assert_eq!(tree.leaves(), ["dog", "hawk", "owl"]);
    assert!(matches!(
        Hierarchy::parse(&turned, ColumnOrder::ParentChild),
        Err(Error::SeveralParents { .. })
    ));
}

#[test]
fn leaves_that_are_numbers_are_in_numerical_order() {
    let tree = Hierarchy::parse("0 1010\n0 295\n0 99\n", ColumnOrder::ParentChild).unwrap();
    assert_eq!(tree.leaves(), ["99", "295", "1010"]);
}

#[test]
fn wrong_files_have_distinct_errors() {
    assert!(matches!(refuse(" \n"), Error::Empty));
    assert!(matches!(
        refuse("a b\na\n"),
        Error::BadLine { line: 2, found: 1 }
    ));
    assert!(matches!(
        refuse("a b c\n"),
        Error::BadLine { line: 1, found: 3 }
    ));
    assert!(matches!(
        refuse("a c\nb c\n"),
        Error::SeveralParents { line: 2, first: 1 }
    ));
    assert!(matches!(
        refuse("a b\na b\n"),
        Error::RepeatedEdge { line: 2, first: 1 }
    ));
    let roots = refuse("a b\nc d\n");
    assert!(
        matches!(&roots, Error::SeveralRoots { count: 2, lines } if lines == "1, 2"),
        "{roots}"
    );
    assert!(matches!(refuse("a a\n"), Error::Cycle { .. }));
    let cycle = refuse("r a\nx y\ny z\nz x\nz w\n");
    assert!(
        matches!(&cycle, Error::Cycle { lines } if lines.matches("->").count() == 2),
        "{cycle}"
    );
}

#[test]
fn classes_have_to_be_in_the_tree_once() {
    assert!(
        matches!(tree().similarity(&["cat"]), Err(Error::UnknownClass { name }) if name == "cat")
    );
    assert!(matches!(
        tree().similarity(&["owl", "owl"]),
        Err(Error::RepeatedClass { .. })
    ));
}

#[test]
fn class_embeddings_look_up_ids_then_names() {
    let path = std::env::temp_dir().join(format!("hierarchy-{}.txt", std::process::id()));
    std::fs::write(&path, TREE).unwrap();
    let strings = |names: [&str; 2]| names.map(str::to_owned);
    let by_id = class_embeddings(
        &path,
        false,
        &strings(["hawk", "owl"]),
        &strings(["x", "y"]),
    )
    .unwrap();
    let by_name = class_embeddings(
        &path,
        false,
        &strings(["0", "1"]),
        &strings(["hawk", "owl"]),
    )
    .unwrap();
    assert_eq!(by_id, [1.0, 0.0, 0.5, 0.75f32.sqrt()]);
    assert_eq!(by_name, by_id);
    let missing = class_embeddings(
        &path,
        false,
        &strings(["0", "hawk"]),
        &strings(["cat", "hawk"]),
    )
    .unwrap_err();
    let Error::InFile { source, .. } = missing else {
        panic!("{missing}")
    };
    assert!(
        source.to_string().contains("1 of the data set's 2 classes"),
        "{source}"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        class_embeddings(&path, false, &[], &[]),
        Err(Error::File(data::Error::Io { .. }))
    ));
}

#[test]
fn an_inner_node_beside_its_only_leaf_has_an_embedding_or_an_error() {
    // `bird` has similarity 0.5 to both of its leaves, as they have to each other: still inner
    // products.
    let similarity = tree().similarity(&["owl", "hawk", "bird"]).unwrap();
    assert!(unit_sphere(&similarity, 3).is_ok());
    assert_eq!(unit_sphere(&[1.0, 1.0, 1.0, 1.0], 2), Err(1));
    assert_eq!(unit_sphere(&[1.0, f64::NAN, f64::NAN, 1.0], 2), Err(1));
}

#[test]
fn stand_in_embeddings_are_unit_vectors_of_a_tree() {
    for num_classes in [0, 1, 2, 3, 10, 67] {
        let embeddings = stand_in_embeddings(num_classes);
        assert_eq!(embeddings.len(), num_classes * num_classes);
        for row in embeddings.chunks_exact(num_classes.max(1)) {
            assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
    let three = stand_in_embeddings(3);
    assert_eq!(three[..6], [1.0, 0.0, 0.0, 0.5, 0.75f32.sqrt(), 0.0]);
}

/// A sweep may name any file that its worker can read, so errors must not reveal the file's
/// content.
#[test]
fn errors_never_quote_the_file() {
    for text in [
        "root:$6$secret:19000:0:99999:7:::\n",
        "password secret\nuser secret2\n",
        "a secret\nb secret\n",
        "a secret\na secret\n",
        "secret a\nx secret2\nsecret2 x\n",
        "secret secret\n",
        "one two secret\n",
    ] {
        let error = refuse(text).to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
