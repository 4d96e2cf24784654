//! The last value that is accepted and the first that is refused: of the language, of a sweep
//! that a peer sends, of files and frames.

use std::collections::BTreeMap;
use std::io::{self, Read};

use miette::Diagnostic;
use serde_json::json;
use sweep::definition::{Candidate, Output, PublishedValue};
use sweep::handoff::{self, Reply};
use sweep::held_out::Folds;
use sweep::settings::{Loss, Model};
use sweep::{Content, Holdout, Program, Sweep, Trainer, recipe};

fn parse(text: &str) -> Result<Sweep, sweep::Errors> {
    let no_files = |_: &str| Err(io::ErrorKind::NotFound.into());
    sweep::parse("test.yaml", text, &no_files)
}

fn compiled(text: &str) -> Sweep {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\nfor\n{text}"))
}

const GOOD: &str = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [xent, cos], samples_per_class: [5, 10]}\n";

/// Checks text that compiles, and text that a problem with these words refuses.
fn border(inside: &str, outside: &str, problem: &str) {
    compiled(inside);
    let errors = parse(outside).expect_err("it lies outside").to_string();
    assert!(errors.contains(problem), "no `{problem}` in {errors}");
}

fn listed(numbers: impl Iterator<Item = u32>) -> String {
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    numbers.join(", ")
}

#[test]
fn limits_of_the_language_are_inclusive() {
    let name = |length: usize| format!("name: {}\n{GOOD}", "n".repeat(length));
    border(&name(64), &name(65), "between 1 and 64 characters");
    let seeds = |count: u32| format!("{GOOD}seeds: [{}]\n", listed(0..count));
    border(&seeds(10_000), &seeds(10_001), "more than 10000 seeds");
    let candidates = |count: u32| {
        let values = listed(1..count + 1);
        format!(
            "{GOOD}search: {{field: batch_size, candidates: [{values}]}}\nlimits: {{trials: 1000000}}\n"
        )
    };
    border(
        &candidates(1_000),
        &candidates(1_001),
        "from 2 to 1000 candidates",
    );
    let value = |length: usize| {
        let name = "v".repeat(length);
        format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{a: [{{name: {name}, set: {{flip: true}}}}]}}\n"
        )
    };
    border(
        &value(100),
        &value(101),
        "cannot be the name of an axis value",
    );
    let label = |length: usize| {
        let label = "l".repeat(length);
        format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [{{name: cos, label: {label}}}]}}\n"
        )
    };
    border(&label(200), &label(201), "at most 200 are possible");
    let axes = |count: usize| {
        let axes: String = (0..count)
            .map(|axis| format!("  a{axis}: [{{name: v, set: {{shift: 0.1}}}}]\n"))
            .collect();
        format!("recipe: quick\nset: {{dataset: digits}}\naxes:\n{axes}")
    };
    let too_many = |count| {
        let problem = parse(&axes(count)).map_err(|errors| errors.to_string());
        problem.is_err_and(|problem| problem.contains("more than 16 axes"))
    };
    assert!(too_many(17) && !too_many(16));
}

#[test]
fn numbers_of_trials_are_exact() {
    let trials = |text: &str, trials: u32| {
        let limited = |limit: u32| format!("{GOOD}{text}limits: {{trials: {limit}}}\n");
        let found: usize = {
            let sweep = compiled(&limited(trials));
            let chosen = text.contains("validation").then_some(0);
            (0..sweep.cells.len())
                .map(|cell| sweep.cell_trials(cell, chosen).len())
                .sum()
        };
        assert_eq!(found, trials as usize);
        border(
            &limited(trials),
            &limited(trials - 1),
            &format!("the grid has {trials} trials"),
        );
    };
    trials("seeds: 3\n", 12);
    let search = "search: {field: learning_rate, candidates: [0.1, 0.2, 0.3], select: ";
    trials(&format!("seeds: 4\n{search}best_on_test}}\n"), 4 * 3 * 4);
    trials(
        &format!("seeds: 4\n{search}validation, seeds: 2}}\n"),
        4 * (3 * 2 + 4),
    );
    // Ten and twenty held-out images take ten and five seeds.
    trials(
        &format!("seeds: 4\n{search}validation}}\n"),
        2 * (3 * 10 + 4) + 2 * (3 * 5 + 4),
    );
}

#[test]
fn numbers_out_of_range_and_other_types_have_their_own_errors() {
    for (value, problem) in [
        ("-1", "out of range"),
        ("0", "out of range"),
        ("1.5", "the wrong type"),
        ("[1]", "the wrong type"),
    ] {
        let text =
            format!("{GOOD}overrides: [{{when: {{loss: cos}}, set: {{batch_size: {value}}}}}]\n");
        let errors = parse(&text).unwrap_err().to_string();
        assert!(errors.contains(problem), "{value}: {errors}");
    }
}

#[test]
fn names_are_as_written_if_they_are_the_number() {
    let names = |values: &str| -> Vec<String> {
        let text = format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{learning_rate: [{values}]}}\n"
        );
        let axis = compiled(&text).axes.remove(0);
        axis.values.into_iter().map(|value| value.name).collect()
    };
    assert_eq!(names("1e-3, 0.10, 1"), ["1e-3", "0.10", "1"]);
    assert_eq!(names("0x10, 1"), ["16", "1"]);
}

#[test]
fn help_lists_some_values_and_suggests_close_names() {
    let help = |count: u32| {
        let values = listed(1..count + 1);
        let text = format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{batch_size: [{values}]}}\noverrides: [{{when: {{batch_size: 999}}, set: {{flip: true}}}}]\n"
        );
        let errors = parse(&text).unwrap_err();
        let problem = errors.problems().first().expect("a problem").help_text();
        problem.expect("it has help").to_owned()
    };
    assert_eq!(help(20), format!("its values are {}", listed(1..21)));
    assert_eq!(help(21), format!("its values are {}, ...", listed(1..21)));
    let close = |text: &str, name: &'static str| {
        sweep::field::did_you_mean(text, [name].into_iter()).is_some()
    };
    for (text, name, is_close) in [
        ("moment", "momentum", true),
        ("Batch-Size", "batch_size", true),
        ("xcos", "cos", true),
        ("learning", "learning_rate", true),
        ("xyos", "cos", false),
        // Three slips in ten letters, two in nine.
        ("xyzdefghij", "abcdefghij", true),
        ("wxyzefghij", "abcdefghij", false),
        ("xycdefghi", "abcdefghi", true),
        ("xyzdefghi", "abcdefghi", false),
        // Slips at the end matter less.
        ("abcdefxyz", "abcdefghi", false),
        ("abcdefgxyz", "abcdefghij", true),
    ] {
        assert_eq!(close(text, name), is_close, "{text} {name}");
    }
    let nearest = sweep::field::did_you_mean("cosx", ["cos_xent", "cos"].into_iter());
    assert_eq!(nearest.as_deref(), Some("did you mean `cos`?"));
}

#[test]
fn at_most_fifty_problems_are_reported() {
    let problems = |count: u32| {
        let keys: String = (0..count).map(|key| format!("wrong{key}: 1\n")).collect();
        parse(&format!("{GOOD}{keys}"))
            .unwrap_err()
            .problems()
            .len()
    };
    assert_eq!((problems(49), problems(50), problems(51)), (49, 50, 50));
}

#[test]
fn errors_of_the_scanner_are_placed_by_line_and_column() {
    for (text, place) in [
        ("b: 1\nlonger: 2\na: [1, 2\n", (3, 4)),
        ("b: é\na: é\n\tb: 2\n", (2, 4)),
    ] {
        let errors = parse(text).unwrap_err();
        let found: Vec<_> = errors
            .problems()
            .iter()
            .map(|problem| problem.position())
            .collect();
        assert_eq!(found, [place], "{errors}");
    }
}

#[test]
fn a_file_of_exactly_the_limit_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("full.yaml");
    let rest = sweep::MAX_FILE_BYTES as usize - GOOD.len() - 2;
    let text = format!("{GOOD}#{}\n", "x".repeat(rest));
    std::fs::write(&path, text).expect("it can be written");
    assert!(sweep::load(&path).is_ok());
}

/// A stream that fails with these errors, then has these bytes.
struct Failing(Vec<io::ErrorKind>, &'static [u8]);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop() {
            Some(kind) => Err(kind.into()),
            None => self.1.read(buffer),
        }
    }
}

#[test]
fn only_an_interruption_of_a_read_is_tried_again() {
    let read = |errors: &[io::ErrorKind]| {
        let frame = handoff::encode_frame(&Reply::Stopped);
        let stream = Failing(errors.to_vec(), frame.leak());
        handoff::read_frame::<Reply>(stream).map_err(|error| error.kind())
    };
    let interrupted = io::ErrorKind::Interrupted;
    assert_eq!(read(&[interrupted, interrupted]), Ok(Some(Reply::Stopped)));
    let broken = io::ErrorKind::ConnectionReset;
    assert_eq!(read(&[broken, interrupted]), Err(broken));
}

#[test]
fn recipes_know_the_sizes_of_published_data() {
    let sweep = compiled(
        "recipe: quick\nset: {samples_per_class: all}\naxes: {dataset: [cifar100, digits]}\nsearch: {field: learning_rate, candidates: [0.1, 0.2], holdout: 0.1}\n",
    );
    let held_out: Vec<_> = sweep.cells.iter().map(|cell| cell.held_out).collect();
    assert_eq!(held_out, [Some(5_000), Some(130)]);
    assert_eq!(
        sweep
            .cells
            .iter()
            .map(|cell| sweep.search_images(cell))
            .collect::<Vec<_>>(),
        [Some(5_000), Some(130)]
    );
    let model = |recipe: &str, dataset: &str| {
        let settings = recipe::settings(recipe, dataset).expect("a recipe");
        (settings.model, settings.batch_size, settings.crop_size)
    };
    let cifar_batch = model("paper", "cifar100").1;
    assert_eq!(
        model("paper", "digits"),
        (Model::Resnet8, cifar_batch, None)
    );
    assert_eq!(
        model("paper", "fashion-mnist"),
        (Model::Resnet20, cifar_batch, None)
    );
    assert_eq!(
        model("paper", "mit67"),
        (Model::Resnet50Keras, 96, Some(224))
    );
    assert_eq!(model("paper", "cub"), (Model::Resnet50Keras, 96, Some(448)));
    assert_eq!(recipe::settings("none", "cub"), None);
}

/// Checks the borders of a compiled sweep: changes that `check` accepts, and one step more.
#[test]
fn a_peers_sweep_is_refused_one_step_outside_its_limits() {
    let good = compiled(&format!(
        "{GOOD}search: {{field: learning_rate, candidates: [0.1, 0.2], seeds: 1}}\n"
    ));
    let check = |change: &dyn Fn(&mut Sweep)| {
        let mut sweep = good.clone();
        change(&mut sweep);
        sweep.check().map_err(|bad| bad.to_string())
    };
    let text = |length: usize| "t".repeat(length);
    type Change<'a> = &'a dyn Fn(&mut Sweep, usize);
    let limits: [(usize, &str, Change); 16] = [
        (4096, "description is too long", &|sweep, size| {
            sweep.description = text(size)
        }),
        (64, "no or too many devices", &|sweep, size| {
            sweep.resources.devices_per_trial = size as u32;
        }),
        (
            sweep::MAX_FILE_BYTES as usize,
            "source is too long",
            &|sweep, size| {
                sweep.source = text(size);
            },
        ),
        (10_000, "seeds are none, too many", &|sweep, size| {
            sweep.seeds = (0..size as u64).collect();
        }),
        (10_000, "search.seeds are none, too many", &|sweep, size| {
            sweep.search.as_mut().expect("a search").seeds = (0..size as u64).collect();
        }),
        (
            // that of subset 999 with the largest seed of initial weights
            (1001 << 32) - 1,
            "seeds are none, too many, too large",
            &|sweep, size| {
                sweep.seeds = vec![size as u64];
            },
        ),
        (1, "cells[0] lies outside the axes", &|sweep, size| {
            sweep.cells.truncate(1);
            sweep.cells[0].coordinates[0] = size as u32;
        }),
        (
            4096,
            "cells[1] is skipped for too long a reason",
            &|sweep, size| {
                sweep.cells[1].skipped = Some(text(size));
            },
        ),
        (
            1000,
            "search.candidates are none or too many",
            &|sweep, size| {
                let search = sweep.search.as_mut().expect("a search");
                let rate = |rate| {
                    Candidate(BTreeMap::from([(
                        "learning_rate".to_owned(),
                        json!(rate as f64),
                    )]))
                };
                search.candidates = (1..=size).map(rate).collect();
            },
        ),
        (4096, "an output's caption is too long", &|sweep, size| {
            if let Output::Table(table) = &mut sweep.outputs[0] {
                table.caption = text(size);
            }
        }),
        (10_000, "footnotes are too many", &|sweep, size| {
            sweep.footnotes = vec![String::new(); size];
        }),
        (4096, "footnotes are too long", &|sweep, size| {
            sweep.footnotes = vec![text(size)]
        }),
        (
            1,
            "refers to a footnote that does not exist",
            &|sweep, size| {
                sweep.footnotes = vec![String::new(); 2];
                sweep.published = vec![published(Some(size as u32), 50.0)];
            },
        ),
        (100, "published is not a percentage", &|sweep, size| {
            sweep.published = vec![published(None, size as f64)];
        }),
        (100, "a value with an impossible name", &|sweep, size| {
            sweep.axes[0].values[0].name = text(size);
        }),
        (4096, "a label that is not one line", &|sweep, size| {
            sweep.axes[0].values[0].label = text(size);
        }),
    ];
    for (size, problem, change) in limits {
        assert_eq!(check(&|sweep| change(sweep, size)), Ok(()), "{problem}");
        let refused = check(&|sweep| change(sweep, size + 1)).expect_err(problem);
        assert!(refused.contains(problem), "{refused}, not {problem}");
    }
    for name in [" a", "a ", "", " ", "a\nb", "a/b", "a,b", "a=b"] {
        let refused = check(&|sweep| sweep.axes[0].values[0].name = name.to_owned());
        assert!(
            refused.is_err_and(|bad| bad.contains("impossible name")),
            "{name:?}"
        );
    }
    for (holdout, fine) in [(0.0, false), (0.001, true), (0.999, true), (1.0, false)] {
        let found = check(&|sweep| {
            sweep.search.as_mut().expect("a search").holdout = Holdout::Fraction(holdout);
        });
        assert_eq!(found.is_ok(), fine, "{holdout}");
    }
    // Folds are trained with pairs of seeds.
    for (seeds, fine) in [(vec![1 << 32, 1 << 32 | 1], true), (vec![0, 1], false)] {
        let found = check(&|sweep| {
            let search = sweep.search.as_mut().expect("a search");
            search.holdout = Holdout::Folds(Folds { folds: 2 });
            search.seeds = seeds.clone();
        });
        assert_eq!(found.is_ok(), fine, "{seeds:?}: {found:?}");
    }
    let empty = check(&|sweep| sweep.search.as_mut().expect("a search").candidates.clear());
    assert_eq!(
        empty,
        Err("search.candidates are none or too many".to_owned())
    );
}

fn published(footnote: Option<u32>, value: f64) -> PublishedValue {
    PublishedValue {
        cell: BTreeMap::new(),
        value,
        footnote,
    }
}

#[test]
fn outputs_of_a_peers_sweep_place_every_axis_once() {
    let good = compiled(GOOD);
    let refused = |change: &dyn Fn(&mut Sweep)| {
        let mut sweep = good.clone();
        change(&mut sweep);
        sweep.check().expect_err("a lie").reason
    };
    let table = |sweep: &mut Sweep, change: &dyn Fn(&mut sweep::definition::Table)| match &mut sweep
        .outputs[0]
    {
        Output::Table(table) => change(table),
        Output::Figure(_) => panic!("the output that a sweep has without being asked is a table"),
    };
    for (expected, change) in [
        (
            "has no place for an axis",
            &|table: &mut sweep::definition::Table| table.columns.clear(),
        ),
        ("names an axis that does not exist", &|table| {
            table.columns.push("other".into())
        }),
        ("uses an axis twice", &|table| {
            table.columns.push("loss".into())
        }),
        ("have the name of a file that every report has", &|table| {
            table.name = "results".into()
        }),
    ] as [(&str, &dyn Fn(&mut sweep::definition::Table)); 4]
    {
        assert_eq!(refused(&|sweep| table(sweep, change)), expected);
    }
    let twice = refused(&|sweep| sweep.outputs.push(sweep.outputs[0].clone()));
    assert_eq!(twice, "hold two of the same name");
    let unknown = refused(&|sweep| {
        let cell = BTreeMap::from([("loss".to_owned(), "mse".to_owned())]);
        sweep.published = vec![PublishedValue {
            cell,
            ..published(None, 1.0)
        }];
    });
    assert_eq!(unknown, "refers to an axis value that does not exist");
    let mut one_value = good.clone();
    for cell in &mut one_value.cells {
        cell.set.remove("samples_per_class");
    }
    one_value.axes[1].values.truncate(1);
    one_value.cells.retain(|cell| cell.coordinates[1] == 0);
    table(&mut one_value, &|table| {
        table.columns.retain(|name| name == "loss")
    });
    table(&mut one_value, &|table| {
        table.rows.retain(|name| name == "loss")
    });
    assert_eq!(
        one_value.check(),
        Ok(()),
        "an axis of one value needs no place"
    );
}

#[test]
fn inputs_and_trainers_of_a_peers_sweep_have_names_and_hashes() {
    let good = compiled(GOOD);
    let check = |name: &str, content: Content| {
        let mut sweep = good.clone();
        sweep.inputs.insert(name.to_owned(), content.into());
        sweep.check().is_ok()
    };
    let content = |hash: &str, parts: &[(&str, &str)]| Content {
        hash: hash.to_owned(),
        parts: parts
            .iter()
            .map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned()))
            .collect(),
        ..Content::default()
    };
    let long = "a".repeat(64);
    for (name, hash, parts, fine) in [
        ("n", "0aF", &[("p", "1")] as &[_], true),
        ("n", &long, &[], true),
        ("n", &format!("{long}a"), &[], false),
        ("n", "", &[], false),
        ("n", "xy", &[], false),
        ("", "aa", &[], false),
        ("a\nb", "aa", &[], false),
        (&"n".repeat(4096 + 64), "aa", &[], true),
        (&"n".repeat(4096 + 65), "aa", &[], false),
        ("n", "aa", &[("", "1")], false),
        ("n", "aa", &[("p", "")], false),
    ] {
        assert_eq!(
            check(name, content(hash, parts)),
            fine,
            "{name} {hash} {parts:?}"
        );
    }
    let many = |count: usize| Content {
        parts: (0..count)
            .map(|part| (part.to_string(), "aa".to_owned()))
            .collect(),
        ..content("aa", &[])
    };
    assert!(check("n", many(Content::MAX_PARTS)) && !check("n", many(Content::MAX_PARTS + 1)));
    for (name, hash, fine) in [
        ("mine.sh", "aa", true),
        (&"n".repeat(256), "aa", true),
        (&"n".repeat(257), "aa", false),
        ("", "aa", false),
        ("a\nb", "aa", false),
        ("mine.sh", "", false),
    ] {
        let mut sweep = good.clone();
        let program = Program {
            name: name.to_owned(),
            hash: hash.to_owned(),
        };
        sweep.trainer = Trainer::Foreign(program.into());
        assert_eq!(sweep.check().is_ok(), fine, "{name} {hash}");
    }
}

#[test]
fn numbers_of_images_shares_and_published_values_have_inclusive_borders() {
    let kept = |count: u32| {
        format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{samples_per_class: [{count}]}}\n")
    };
    border(
        &kept(124),
        &kept(125),
        "the smallest class of `digits` has 124 training images",
    );
    let holdout = |share: &str| {
        format!(
            "{GOOD}search: {{field: learning_rate, candidates: [0.1, 0.2], holdout: {share}}}\n"
        )
    };
    border(&holdout("0.1"), &holdout("0"), "out of range");
    border(
        &holdout("{folds: 2}"),
        &holdout("{folds: 1}"),
        "out of range",
    );
    let published = |value: &str| {
        format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [cos]}}\npublished: {{axes: [loss], values: {{cos: {value}}}}}\n"
        )
    };
    border(&published("0"), &published("0.5"), "in per cent?");
    border(&published("1.1"), &published("1"), "in per cent?");
}

#[test]
fn the_override_of_the_highest_priority_wins() {
    let rate = |first: i64, second: i64| {
        let text = format!(
            "{GOOD}overrides:\n- {{when: {{loss: cos}}, set: {{learning_rate: 0.1}}, priority: {first}}}\n\
             - {{when: {{loss: cos}}, set: {{learning_rate: 0.2}}, priority: {second}}}\n"
        );
        let sweep = parse(&text).ok()?;
        let cell = sweep.find_cell("cos/5").expect("a cell");
        Some(sweep.cell_settings(&sweep.cells[cell]).learning_rate)
    };
    assert_eq!(
        (rate(2, 1), rate(1, 2), rate(-2, -1)),
        (Some(0.1), Some(0.2), Some(0.2))
    );
    assert_eq!(
        rate(1, 1),
        None,
        "different values that meet are a conflict"
    );
}

#[test]
fn a_variant_has_one_name() {
    let schedule = "{constant: {epochs: 1}, cosine: {epochs: 2}}";
    let text = format!(
        "recipe: quick\nset: {{dataset: digits, schedule: {schedule}}}\naxes: {{loss: [cos]}}\n"
    );
    assert!(
        parse(&text)
            .unwrap_err()
            .to_string()
            .contains("the wrong type")
    );
}

#[test]
fn a_table_of_one_axis_with_several_values_has_no_columns() {
    let sweep = compiled(
        "recipe: quick\nset: {dataset: digits}\naxes: {loss: [xent, cos], flip: [true]}\n",
    );
    let Output::Table(table) = &sweep.outputs[0] else {
        panic!("a table was expected");
    };
    assert!(table.columns.is_empty(), "{table:?}");
    assert!(sweep::build().starts_with(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_bundle_on_the_axis_of_a_field_is_that_value_unless_it_sets_the_field() {
    let loss_of = |bundle: &str| {
        let text = format!("recipe: quick\nset: {{dataset: digits}}\naxes: {{loss: [{bundle}]}}\n");
        let sweep = compiled(&text);
        let settings = sweep.cell_settings(&sweep.cells[0]);
        (settings.loss, settings.flip)
    };
    let expected = (Loss::Cos, true);
    assert_eq!(loss_of("{name: cos, set: {flip: true}}"), expected);
    assert_eq!(
        loss_of("{name: mine, set: {loss: cos, flip: true}}"),
        expected
    );
    assert_eq!(
        loss_of("{name: mine, set: {flip: true, loss: cos}}"),
        expected
    );
}

#[test]
fn replicas_of_resources_replace_those_of_the_recipe_and_nothing_else() {
    let sweep = compiled(
        "recipe: {base: quick, learning_rate: 0.3, replicas: 4}\nset: {dataset: digits}\n\
         axes: {loss: [cos]}\nresources: {replicas: 2}\n",
    );
    let settings = sweep.cell_settings(&sweep.cells[0]);
    assert_eq!((settings.replicas, settings.learning_rate), (2, 0.3));
}

/// The first place of a problem is drawn as its own, the others beside it.
#[test]
fn places_of_a_problem_have_an_order() {
    let text = "recipe: quick\nset: {dataset: digits, samples_per_class: 1}\naxes: {loss: [cos]}\n\
                search: {field: learning_rate, candidates: [0.1, 0.2]}\n";
    let errors = parse(text).expect_err("nothing can be held out");
    let problem = &errors.problems()[0];
    assert!(problem.message().contains("held out"), "{errors}");
    let labels: Vec<_> = problem.labels().expect("it has places").collect();
    let places: Vec<_> = labels
        .iter()
        .map(|label| (text[..label.offset()].lines().count(), label.primary()))
        .collect();
    assert_eq!(places, [(2, true), (4, false)], "{labels:?}");
}

/// Conflicts are looked for beside other problems, unless the grid is too large to go through.
#[test]
fn conflicts_of_a_file_with_other_problems_are_reported_up_to_the_limit_of_trials() {
    let conflict = |trials: u32| {
        let text = format!(
            "{GOOD}seedz: 1\nlimits: {{trials: {trials}}}\noverrides:\n\
             - {{when: {{loss: cos}}, set: {{learning_rate: 0.1}}}}\n\
             - {{when: {{loss: cos}}, set: {{learning_rate: 0.2}}}}\n"
        );
        let errors = parse(&text).expect_err("`seedz` is no key");
        let problems = errors.problems().iter();
        problems
            .filter(|problem| problem.message().contains("learning_rate"))
            .count()
    };
    assert_eq!([3, 4, 5].map(conflict), [0, 1, 1]);
}

#[test]
fn borders_of_learning_rates_and_files() {
    let minimum = |rate: &str| {
        format!(
            "recipe: quick\nset: {{dataset: digits, learning_rate: {rate}, schedule: {{sgdr: {{base_cycle: 2, \
             multiplier: 2, cycles: 2, learning_rate_min: 0.1}}}}}}\naxes: {{loss: [cos]}}\n"
        )
    };
    border(
        &minimum("0.1"),
        &minimum("0.09"),
        "below the schedule's minimum",
    );
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [cos]}\npublished: {file: numbers.yaml}\n";
    let with_size = |size: usize| {
        let mut file = "axes: [loss]\nvalues: {cos: 50.0}\n".to_owned();
        file.extend(std::iter::repeat_n('#', size - file.len()));
        sweep::parse("test.yaml", text, &|_: &str| Ok(file.clone()))
    };
    assert!(with_size(4 << 20).is_ok());
    let errors = with_size((4 << 20) + 1).expect_err("it is too large");
    assert!(errors.to_string().contains("is too large"), "{errors}");
}

#[test]
fn a_file_of_published_numbers_has_no_other_keys_beside_it() {
    let text = "recipe: quick\nset: {dataset: digits}\naxes: {loss: [cos]}\n\
                published: {file: numbers.yaml, axes: [loss]}\n";
    let errors = sweep::parse("test.yaml", text, &|_: &str| {
        Ok("axes: [loss]\nvalues: {cos: 50.0}\n".to_owned())
    });
    let errors = errors.expect_err("it has two keys").to_string();
    assert!(errors.contains("`file` stands alone"), "{errors}");
}

#[test]
fn a_search_takes_no_field_that_a_bundle_sets() {
    let searched = |axis: &str| {
        format!(
            "recipe: quick\nset: {{dataset: digits}}\naxes: {{{axis}}}\n\
             search: {{field: learning_rate, candidates: [0.1, 0.2]}}\n"
        )
    };
    border(
        &searched("method: [{name: a, set: {flip: true}}]"),
        &searched("method: [{name: a, set: {learning_rate: 0.3}}]"),
        "cannot be searched over",
    );
}

/// Text alone is enough only where the one required part is a path.
#[test]
fn a_number_is_no_shorthand_in_text() {
    let text =
        "recipe: quick\nset: {dataset: digits, schedule: {constant: \"3\"}}\naxes: {loss: [cos]}\n";
    let errors = parse(text).expect_err("it is text").to_string();
    assert!(errors.contains("the wrong type"), "{errors}");
    assert!(!errors.contains("constant.epochs"), "{errors}");
}

#[test]
fn marks_are_left_out_on_request_alone() {
    let unmarked = |key: &str| {
        let sweep = compiled(&format!(
            "{GOOD}outputs:\n- table: {{rows: [loss], columns: [samples_per_class]{key}}}\n"
        ));
        let Output::Table(table) = &sweep.outputs[0] else {
            panic!("a table was expected");
        };
        table.look.unmarked
    };
    let found = ["", ", marks: true", ", marks: false"].map(unmarked);
    assert_eq!(found, [false, false, true]);
}

/// `seed` is a slip for `seeds`, and not the word of another tool.
#[test]
fn a_key_that_begins_like_a_known_one_is_a_slip() {
    for key in ["seed", "seedsx"] {
        let errors = parse(&format!("{GOOD}{key}: 3\n")).expect_err("no such key");
        let help = errors.problems()[0].help_text();
        assert_eq!(help, Some("did you mean `seeds`?"), "{key}");
    }
}

#[test]
fn kept_files_have_the_names_that_trainers_write() {
    use sweep::keep::Kept;
    let kept = [
        Kept::Curves,
        Kept::Predictions,
        Kept::Confusion,
        Kept::Weights,
    ];
    let attempt = sweep::AttemptNo(3);
    for (kept, file) in kept.into_iter().zip([
        None,
        Some("predictions.csv.gz"),
        Some("confusion.csv"),
        Some("weights.safetensors"),
    ]) {
        assert_eq!(kept.file(), file);
        let of_attempt = file.map(|file| file.replacen('.', ".attempt-3.", 1));
        assert_eq!(kept.file_of_attempt(attempt), of_attempt);
    }
}

#[test]
fn differences_of_an_inputs_content_are_counted_beyond_a_few() {
    let sweep = compiled(GOOD);
    let content = |parts: u32, hash: &str| Content {
        hash: hash.to_owned(),
        files: 1,
        bytes: 1,
        parts: (0..parts)
            .map(|part| (format!("part{part}"), hash.to_owned()))
            .collect(),
    };
    let refused = |parts: u32| {
        let settings = sweep.cell_settings(&sweep.cells[0]);
        let mut spec = sweep::TrialSpec::new(settings, 1);
        spec.inputs
            .insert("data set x".to_owned(), content(parts, "aa").into());
        assert_eq!(spec.accept("data set x", &content(parts, "aa")), Ok(()));
        spec.accept("data set x", &content(parts, "bb"))
            .expect_err("it differs")
    };
    assert!(!refused(1).contains(" more"), "{}", refused(1));
    assert!(refused(50).contains(" more;"), "{}", refused(50));
}
