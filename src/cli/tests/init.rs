//! `orchestrator init`: the sweep that it writes for a folder passes `plan`, and no file is lost.

mod place;

use data::stand_in_files::{Amount, write};
use place::Place;

const SMALL: Amount = Amount {
    num_classes: 3,
    train_per_class: 6,
    test_per_class: 3,
    height: 48,
    width: 48,
};

#[test]
fn the_sweep_of_a_folder_passes_plan() {
    let place = Place::new();
    let data = place.path().join("data");
    write("folder:trees", &data, SMALL).unwrap();
    let shown = place.printed(&["init", "data/trees"]);
    assert!(
        shown.contains("3 classes: 18 training images (6 in each class), 9 test images"),
        "{shown}"
    );
    assert!(
        shown.contains("train:          orchestrator run trees.yaml\n"),
        "{shown}"
    );
    let text = std::fs::read_to_string(place.path().join("trees.yaml")).unwrap();
    assert!(text.contains("dataset: \"folder:trees\"\n"), "{text}");
    let plan = place.printed(&["plan", "trees.yaml"]);
    assert!(
        plan.contains("axis        samples_per_class: 5\n"),
        "{plan}"
    );
    assert!(
        !plan.contains("missing") && !plan.contains("note"),
        "{plan}"
    );
    let refused = place.refused(1, &["init", "data/trees"]);
    assert!(
        refused.contains("trees.yaml exists already: --force replaces it"),
        "{refused}"
    );
    std::fs::write(place.path().join("trees.yaml"), "mine").unwrap();
    place.refused(1, &["init", "data/trees"]);
    assert_eq!(
        std::fs::read_to_string(place.path().join("trees.yaml")).unwrap(),
        "mine"
    );
    place.printed(&["init", "data/trees", "--force"]);
    assert_eq!(
        std::fs::read_to_string(place.path().join("trees.yaml")).unwrap(),
        text
    );
}

/// Elsewhere the path is absolute, a published data set is known by its layout, and the commands that
/// are shown find both.
#[test]
fn folders_elsewhere_and_published_data_sets_are_found_again() {
    let place = Place::new();
    let sets = place.path().join("sets");
    for name in ["flowers", "folder:pets"] {
        write(name, &sets, SMALL).unwrap();
    }
    for (folder, dataset) in [
        ("flowers", "flowers".to_owned()),
        (
            "pets",
            format!("\"folder:{}\"", sets.join("pets").display()),
        ),
    ] {
        let shown = place.printed(&["init", &format!("sets/{folder}")]);
        let text = std::fs::read_to_string(place.path().join(format!("{folder}.yaml"))).unwrap();
        assert!(text.contains(&format!("dataset: {dataset}\n")), "{text}");
        let next = shown
            .lines()
            .find_map(|line| line.strip_prefix("what it means:  orchestrator "));
        let words: Vec<&str> = next.expect("the next command").split(' ').collect();
        let plan = place.printed(&words);
        assert!(!plan.contains("missing"), "{plan}");
    }
    let relative = place.printed(&["init", "sets/pets", "--data-dir", "sets", "--force"]);
    assert!(
        relative.contains("plan pets.yaml --data-dir "),
        "{relative}"
    );
    place.file("orchestrator.toml", "data_dir = 'sets'\n");
    let configured = place.printed(&["init", "sets/pets", "--force", "--output", "json"]);
    let configured: serde_json::Value = serde_json::from_str(&configured).unwrap();
    assert_eq!(configured["next"], "orchestrator run pets.yaml");
    assert_eq!(configured["dataset"], "folder:pets");
}

#[test]
fn what_is_no_folder_of_images_is_refused_with_the_reason() {
    let place = Place::new();
    let refused = place.refused(2, &["init", "absent"]);
    assert!(refused.contains("cannot find absent"), "{refused}");
    std::fs::create_dir_all(place.path().join("t/train/a")).unwrap();
    let refused = place.refused(1, &["init", "t"]);
    assert!(
        refused.contains("it has train/ but neither test/ nor val/"),
        "{refused}"
    );
    for class in ["a", "b"] {
        std::fs::create_dir_all(place.path().join(format!("broken/{class}"))).unwrap();
        for number in 0..3 {
            place.file(&format!("broken/{class}/{number}.png"), "no image");
        }
    }
    let refused = place.refused(1, &["init", "broken"]);
    assert!(
        refused.contains("none of the training images of class `a` can be read"),
        "{refused}"
    );
    assert!(!place.path().join("broken.yaml").exists());
}
