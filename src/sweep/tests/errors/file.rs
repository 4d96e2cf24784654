//! Problems with the file as a whole and with its keys.

use super::{GOOD, check, parse};

#[test]
fn not_a_sweep_at_all() {
    check("", (1, 1), "is empty", "quickstart");
    check("# nothing\n", (1, 1), "is empty", "quickstart");
    check("just text\n", (1, 1), "is text, not a mapping", "");
    check("- a\n- b\n", (1, 1), "is a list, not a mapping", "");
    check("a: [1, 2\n", (1, 4), "not readable as YAML", "");
    check("a: 1\n\tb: 2\n", (1, 4), "found a tab", "spaces");
    check(
        &format!("{GOOD}---\nname: two\n"),
        (7, 1),
        "several YAML documents",
        "one sweep per file",
    );
    let huge = format!("{GOOD}#{}\n", "x".repeat(5 << 20));
    check(&huge, (1, 1), "larger than 4 MiB", "");
}

#[test]
fn unreadable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let errors = |name: &str| {
        sweep::load(&folder.path().join(name))
            .unwrap_err()
            .to_string()
    };
    assert!(errors("gone.yaml").contains("cannot read"));
    assert!(errors("").contains("it is a folder"));
    std::fs::write(
        folder.path().join("latin.yaml"),
        b"name: x\ndescription: caf\xe9\n",
    )
    .unwrap();
    assert!(errors("latin.yaml").contains("line 2 is not UTF-8"));
    std::fs::write(folder.path().join("huge.yaml"), vec![b'#'; (4 << 20) + 1]).unwrap();
    assert!(errors("huge.yaml").contains("larger than 4 MiB"));
    let outside = format!("{GOOD}published: {{file: ../secret.yaml}}\n");
    std::fs::write(folder.path().join("outside.yaml"), outside).unwrap();
    assert!(errors("outside.yaml").contains("own folder"));
    std::fs::write(folder.path().join("mark.yaml"), format!("\u{feff}{GOOD}")).unwrap();
    assert_eq!(
        sweep::load(&folder.path().join("mark.yaml"))
            .map(|sweep| sweep.name)
            .map_err(|e| e.to_string()),
        Ok("mark".to_owned())
    );
}

#[test]
fn wrong_keys() {
    check(
        &format!("{GOOD}sedes: 3\n"),
        (6, 1),
        "no key `sedes`",
        "did you mean `seeds`?",
    );
    check(
        &format!("{GOOD}seeds: 3\nseeds: 4\n"),
        (7, 1),
        "key `seeds` twice",
        "keep one",
    );
    check(
        &format!("{GOOD}  model: [resnet-8]\n  model: [resnet-20]\n"),
        (7, 3),
        "key `model` twice",
        "",
    );
    check(
        "recipe: {base: quick, learning_rat: 1}\n",
        (1, 23),
        "no field is called `learning_rat`",
        "`learning_rate`",
    );
    check("set: {dataset: digits}\n", (1, 1), "no `recipe`", "quick");
    check(
        "recipe: qick\nset: {dataset: digits}\n",
        (1, 9),
        "no recipe is called",
        "did you mean `quick`?",
    );
    let several = "recipe: qick\nset: {dataset: digit, batch_size: 0}\nseedz: 3\n";
    assert_eq!(
        parse(several).unwrap_err().problems().len(),
        4,
        "an unknown recipe hides nothing"
    );
    check(
        "recipe: {learning_rate: 1}\n",
        (1, 9),
        "recipe it starts from",
        "base",
    );
    check("recipe: quick\n", (1, 1), "names no data set", "dataset");
}

#[test]
fn names_of_other_tools_get_the_name_in_this_language() {
    let set = |field: &str| format!("recipe: quick\nset: {{dataset: digits, {field}: 1}}\n");
    for (name, advice) in [
        ("lr", "`learning_rate`"),
        ("epochs", "`schedule: {cosine: {epochs: 60}}`"),
        ("optimiser", "`optimizer: adamw`"),
        ("bs", "`batch_size`"),
        ("wd", "`weight_decay`"),
        ("arch", "`model`"),
        ("num-workers", "--slots"),
    ] {
        check(
            &set(name),
            (2, 24),
            &format!("no field is called `{name}`"),
            advice,
        );
        check(
            &format!("{GOOD}{name}: 1\n"),
            (6, 1),
            &format!("no key `{name}`"),
            advice,
        );
        let axis = format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{{name}: [1]}}\n");
        check(
            &axis,
            (3, 8),
            &format!("no field is called `{name}`"),
            advice,
        );
    }
    check(
        &format!("{GOOD}learning_rate: 1\n"),
        (6, 1),
        "no key `learning_rate`",
        "write it into `set`",
    );
    check(
        &format!("{GOOD}search: {{field: lr, candidates: [1, 2]}}\n"),
        (6, 17),
        "no field",
        "`learning_rate`",
    );
}
