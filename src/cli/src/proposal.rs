//! The sweep that `orchestrator init` proposes for a data set: pure, from what was found to the text
//! of a file.
//!
//! It is a comparison of two losses over training images per class, as large as fits the minutes
//! that the user has. Estimates are those of `orchestrator plan`.

use std::time::Duration;

use data::{Heads, Preflight};
use sweep::settings::AUTOMATIC_EVALUATIONS;
use sweep::{Errors, Sweep, counted};

use crate::estimate;

/// Facts about a data set.
pub struct Images {
    /// Name in sweep files: that of a published data set, or `folder:PATH`.
    pub dataset: String,
    /// Name of the folder.
    pub folder: String,
    pub found: Preflight,
    /// Absent where all images have one small size, which sweeps do not change.
    pub heads: Option<Heads>,
}

/// The machine that trains, and the time that it has.
pub struct Budget {
    pub minutes: u32,
    pub cpu_threads: usize,
    pub has_gpus: bool,
}

pub struct Proposal {
    pub name: String,
    pub text: String,
    pub trials: usize,
    /// On this machine's CPU.
    pub estimate: Duration,
}

/// One size of a comparison.
#[derive(Clone, Copy)]
struct Scale<'a> {
    samples: &'a [usize],
    cycles: u32,
    network: Network,
}

#[derive(Clone, Copy)]
struct Network {
    /// Sides in pixels to resize to and to crop; absent for images of one fixed size.
    sides: Option<(u32, u32)>,
    model: &'static str,
}

/// Numbers of training images per class that are usual in comparisons.
const SAMPLES: [usize; 8] = [5, 10, 20, 50, 100, 200, 500, 1000];
/// Columns of a table.
const MAX_COLUMNS: usize = 3;
/// Cycles of the recipe's schedule: 84 and 36 epochs, and if nothing else fits 12. All are multiples
/// of `CYCLE`.
const CYCLES: [&[u32]; 2] = [&[RECIPE_CYCLES, 2], &[1]];
const RECIPE_CYCLES: u32 = 3;
const CYCLE: u32 = 12;
const SEEDS: u32 = 3;
const LOSSES: [&str; 2] = ["xent", "cos"];
/// Largest side of images like CIFAR's, for which networks do not reduce the resolution at once.
const SMALL_SIDE: u32 = 64;
/// Files that are named in the text; more are counted.
const MAX_NAMED: usize = 20;

/// Proposes the largest comparison that the budget allows; if even the smallest takes longer, the
/// smallest.
pub fn propose(images: &Images, budget: &Budget) -> Result<Proposal, Errors> {
    let available = samples(images);
    let networks = networks(images);
    let mut smallest = None;
    for cycles in CYCLES {
        for columns in (1..=available.len()).rev() {
            for (&network, &cycles) in networks
                .iter()
                .flat_map(|network| cycles.iter().map(move |cycles| (network, cycles)))
            {
                let scale = Scale {
                    samples: &available[..columns],
                    cycles,
                    network,
                };
                let proposal = proposal(images, budget, scale)?;
                let fits = proposal.estimate.as_secs() <= u64::from(budget.minutes) * 60;
                // How fast a GPU is has not been measured.
                if fits || budget.has_gpus {
                    return Ok(proposal);
                }
                smallest = Some(proposal);
            }
        }
    }
    Ok(smallest.expect("there is at least one network and one number of images"))
}

/// Returns the numbers of training images per class to compare, which every class has.
fn samples(images: &Images) -> Vec<usize> {
    let (fewest, _) = smallest_class(images);
    let mut usual: Vec<usize> = SAMPLES
        .into_iter()
        .filter(|&count| count <= fewest)
        .collect();
    if usual.is_empty() {
        usual.push(fewest);
    }
    usual.split_off(usual.len().saturating_sub(MAX_COLUMNS))
}

/// Returns the smallest class by the training images that can be used.
pub fn smallest_class(images: &Images) -> (usize, &str) {
    let counts = match &images.heads {
        Some(heads) => &heads.train_counts,
        None => &images.found.train_counts,
    };
    let classes = counts.iter().zip(&images.found.class_names);
    let smallest = classes.min_by_key(|(count, _)| **count);
    smallest.map_or((0, ""), |(count, name)| (*count, name))
}

/// Returns networks with the sizes of their images, the most expensive first.
fn networks(images: &Images) -> Vec<Network> {
    let network = |sides, model| Network { sides, model };
    let Some(side) = images.heads.as_ref().map(typical_side) else {
        return vec![network(None, "resnet-20"), network(None, "resnet-8")];
    };
    let square = |side| Some((side, side));
    if side <= SMALL_SIDE {
        let mut networks = vec![
            network(square(side), "resnet-20"),
            network(square(side), "resnet-8"),
        ];
        if side > 32 {
            networks.push(network(square(32), "resnet-8"));
        }
        return networks;
    }
    // multiples of 16, cropped to 8/9 as the recipe does
    let resize = (side / 16 * 16).min(144);
    let largest = if resize >= 96 {
        "resnet-18"
    } else {
        "resnet-20"
    };
    let mut networks = vec![network(Some((resize, resize * 8 / 9)), largest)];
    if resize > 72 {
        networks.push(network(Some((72, 64)), "resnet-20"));
    }
    networks.push(network(Some((36, 32)), "resnet-20"));
    networks.push(network(Some((36, 32)), "resnet-8"));
    networks
}

fn typical_side(heads: &Heads) -> u32 {
    let middle = heads.sides.len() / 2;
    heads.sides.get(middle).copied().unwrap_or(SMALL_SIDE)
}

fn proposal(images: &Images, budget: &Budget, scale: Scale<'_>) -> Result<Proposal, Errors> {
    let name = name(&images.folder);
    let settings = settings(images, scale);
    let body = body(&name, images, &settings, scale);
    let sweep = parsed(&name, &body)?;
    let summary = sweep.summary_with(&|_| Some(images.found.counts()));
    // Trials do not share their time: the longest of them is a bound.
    let together = estimate::on_cpu(summary.cost, budget.cpu_threads);
    let estimate = together.max(estimate::on_cpu(summary.longest, 1));
    let trials = summary.result_trials;
    let header = header(images, budget, trials, estimate);
    Ok(Proposal {
        text: header + &body,
        name,
        trials,
        estimate,
    })
}

fn parsed(name: &str, text: &str) -> Result<Sweep, Errors> {
    let none = |_: &str| Err(std::io::Error::other("it names no file"));
    sweep::parse(name, text, &none)
}

/// Makes a folder's name one that a sweep may have.
fn name(folder: &str) -> String {
    let usable = |symbol: char| match symbol {
        '-' | '_' | '.' => symbol,
        _ if symbol.is_ascii_alphanumeric() => symbol,
        _ => '-',
    };
    let name: String = folder.chars().map(usable).take(48).collect();
    let name = name.trim_start_matches(|symbol: char| !symbol.is_ascii_alphanumeric());
    match name.trim_end_matches("-smoke").trim_end_matches(['-', '.']) {
        "" => "images".to_owned(),
        name => name.to_owned(),
    }
}

/// Returns the lines below `set`, each with its remark.
fn settings(images: &Images, scale: Scale<'_>) -> Vec<(&'static str, String)> {
    let mut lines = vec![("", format!("dataset: {}", quoted(&images.dataset)))];
    if let Some((resize, crop)) = scale.network.sides {
        let resize_line = format!("resize: {resize}");
        lines.push(("Pixels: the shorter side of each image, and the square that is trained on. Larger ones cost time by their area.", resize_line));
        lines.push(("", format!("crop_size: {crop}")));
    }
    let models = "resnet-8, resnet-20 and resnet-32 are for images up to 64 pixels, resnet-18 to resnet-50 for photographs.";
    lines.push((models, format!("model: {}", scale.network.model)));
    if images.dataset.starts_with(data::catalog::FOLDER_PREFIX) {
        lines.push(("Half of the training images are mirrored. Write false where left and right differ: signs, digits, text.", "flip: true".to_owned()));
    }
    let unreadable = images
        .heads
        .as_ref()
        .map_or(0, |heads| heads.unreadable.len());
    if unreadable > 0 {
        lines.push((
            "Files that cannot be decoded are left out. Without this line, they are refused.",
            "corrupt: skip".to_owned(),
        ));
    }
    if scale.cycles != RECIPE_CYCLES {
        let schedule = format!(
            "schedule: {{sgdr: {{base_cycle: {CYCLE}, multiplier: 2, cycles: {}, learning_rate_min: 0.000001}}}}",
            scale.cycles
        );
        let remark = match scale.cycles {
            2 => "36 epochs; without this line 84, in three cycles.",
            _ => "12 epochs; without this line 84, in three cycles.",
        };
        lines.push((remark, schedule));
    }
    if let Some(epochs) = evaluation_interval(images, scale) {
        lines.push((
            "Epochs between looks at the test images, which are many here.",
            format!("evaluate_every: {epochs}"),
        ));
    }
    lines
}

/// Returns the number of epochs between evaluations if about twenty, which is the default, would
/// cost more than half of the training.
fn evaluation_interval(images: &Images, scale: Scale<'_>) -> Option<u32> {
    let classes = images.found.class_names.len();
    let most = scale.samples.last().copied().unwrap_or(1);
    // A training image costs three passes.
    let wanted = (2 * images.found.num_test()).div_ceil(3 * (most * classes).max(1));
    let divisors = [1, 2, 3, 4, 6, CYCLE];
    let interval = divisors
        .into_iter()
        .find(|divisor| *divisor as usize >= wanted);
    let epochs = CYCLE * ((1 << scale.cycles) - 1);
    let automatic = epochs.div_ceil(AUTOMATIC_EVALUATIONS);
    Some(interval.unwrap_or(CYCLE)).filter(|interval| *interval > automatic)
}

fn body(name: &str, images: &Images, settings: &[(&str, String)], scale: Scale<'_>) -> String {
    let title = format!(
        "Test accuracy on {} after training on few images (%)",
        images.folder
    );
    let mut text = format!(
        "name: {name}\ndescription: {}\nrecipe: quick\nset:\n",
        quoted(&title)
    );
    for (remark, line) in settings {
        if !remark.is_empty() {
            text.push_str(&format!("  # {remark}\n"));
        }
        text.push_str(&format!("  {line}\n"));
    }
    let samples: Vec<String> = scale.samples.iter().map(usize::to_string).collect();
    let (fewest, class) = smallest_class(images);
    text.push_str(&format!(
        "axes:\n  loss: [{}]\n  # Training images per class. The smallest class, {}, has {fewest}.\n  samples_per_class: [{}]\n",
        LOSSES.join(", "),
        quoted(class),
        samples.join(", "),
    ));
    text.push_str(&format!(
        "# Repetitions of each training, with other images and other initial weights: the spread in the table.\nseeds: {SEEDS}\n"
    ));
    let judged = match images.found.num_validation {
        0 => "training images that are held out",
        _ => "the validation split",
    };
    text.push_str(&format!(
        "# To choose the learning rate of each cell on {judged}, remove the `# ` of the next line.\n\
         # search: {{field: learning_rate, candidates: [0.3, 0.1, 0.03], select: validation}}\n"
    ));
    text.push_str("outputs:\n  - table: {rows: loss, columns: samples_per_class}\n");
    text
}

/// Returns the remarks at the top of the file.
fn header(images: &Images, budget: &Budget, trials: usize, estimate: Duration) -> String {
    let found = &images.found;
    let mut lines = vec![
        "Written by `orchestrator init`. Change what you like: `orchestrator plan FILE` shows what it means, and".to_owned(),
        "after a change only what is new is trained.".to_owned(),
        String::new(),
        "Found:".to_owned(),
    ];
    let most = found.train_counts.iter().max().copied().unwrap_or(0);
    let (fewest, class) = smallest_class(images);
    let per_class = match fewest == most {
        true => format!("{fewest} in each class"),
        false => format!("from {fewest} ({}) to {most} in a class", quoted(class)),
    };
    lines.push(format!(
        "  {} classes: {} ({per_class}), {}",
        found.class_names.len(),
        counted(found.num_train() as u64, "training image"),
        counted(found.num_test() as u64, "test image"),
    ));
    if let Some(heads) = &images.heads {
        lines.extend(heads_lines(heads));
    }
    lines.extend(
        found
            .notes
            .iter()
            .map(|note| format!("  {}", note.replace('\n', " "))),
    );
    let trainings = counted(trials as u64, "training");
    let threads = counted(budget.cpu_threads as u64, "CPU thread");
    let time = estimate::text(estimate);
    let over = estimate.as_secs() > u64::from(budget.minutes) * 60;
    let time = match (budget.has_gpus, over) {
        (true, _) => format!("on GPUs the time is not estimated; about {time} on {threads}"),
        (false, true) => format!(
            "about {time} on {threads}; nothing smaller was found for {} min",
            budget.minutes
        ),
        (false, false) => format!("about {time} on {threads}"),
    };
    lines.push(format!("{trainings}, {time}."));
    let comment = |line: String| format!("# {line}").trim_end().to_owned() + "\n";
    lines.into_iter().map(comment).collect()
}

fn heads_lines(heads: &Heads) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(least), Some(greatest)) = (heads.sides.first(), heads.sides.last()) {
        let side = match least == greatest {
            true => format!("{least} pixels"),
            false => format!(
                "{least} to {greatest} pixels, {} in the middle",
                typical_side(heads)
            ),
        };
        let colours = match heads.grey {
            0 => "colour".to_owned(),
            grey if grey == heads.sides.len() => "grey, trained on as colour".to_owned(),
            grey => format!("{grey} of {} are grey", heads.sides.len()),
        };
        lines.push(format!("  shorter sides of {side}; {colours}"));
    }
    let unreadable = heads.unreadable.len();
    if unreadable > 0 {
        lines.push(format!(
            "  {} without an image:",
            counted(unreadable as u64, "file")
        ));
        let named = heads.unreadable.iter().take(MAX_NAMED);
        lines.extend(named.map(|path| format!("    {}", path.escape_debug())));
        let more = unreadable.saturating_sub(MAX_NAMED);
        if more > 0 {
            lines.push(format!(
                "    and {more} more (`orchestrator data check NAME` lists all)"
            ));
        }
    }
    lines
}

/// Quotes a text for YAML, where a plain one might mean something else.
fn quoted(text: &str) -> String {
    let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_./ ".contains(symbol);
    let is_plain =
        text.chars().all(plain) && text.starts_with(|symbol: char| symbol.is_ascii_alphabetic());
    if is_plain && !text.ends_with(' ') && !is_word_of_yaml(text) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// Returns true for words that YAML, or an older version of it, reads as another type.
fn is_word_of_yaml(text: &str) -> bool {
    ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        .contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use data::files::Reach;
    use data::stand_in_files::{Amount, write};
    use sweep::settings::Corrupt;

    use super::*;

    const SMALL: Amount = Amount {
        num_classes: 4,
        train_per_class: 12,
        test_per_class: 6,
        height: 48,
        width: 48,
    };

    /// Two threads and half an hour.
    const BUDGET: Budget = Budget {
        minutes: 30,
        cpu_threads: 2,
        has_gpus: false,
    };

    /// Returns what is found in a folder of generated images, after a change.
    fn images(amount: Amount, change: impl FnOnce(&Path)) -> Images {
        let place = tempfile::tempdir().unwrap();
        let root = write("folder:my trees", place.path(), amount).unwrap();
        change(&root);
        let request = data::OpenRequest {
            dataset: "folder:my trees",
            resize: None,
            test_resize: None,
            reach: Reach::anywhere(place.path()),
            cache_dir: place.path(),
            corrupt: Corrupt::Refuse,
            smoke: false,
        };
        let mut found = data::preflight(&request).unwrap();
        let below = format!("{}/", place.path().display());
        found
            .notes
            .iter_mut()
            .for_each(|note| *note = note.replace(&below, ""));
        Images {
            dataset: "folder:my trees".to_owned(),
            folder: "my trees".to_owned(),
            heads: data::heads(&request).unwrap(),
            found,
        }
    }

    fn golden(name: &str, images: &Images, budget: &Budget) {
        let proposal = propose(images, budget).map_err(|errors| errors.to_string());
        let proposal = proposal.unwrap();
        assert_eq!(proposal.name, "my-trees");
        ::tests::golden::assert_file(format!("tests/goldens/{name}"), &proposal.text);
    }

    #[test]
    fn proposals_are_these() {
        golden("init-48-pixels.yaml", &images(SMALL, |_| ()), &BUDGET);
        let photographs = Amount {
            num_classes: 3,
            train_per_class: 5,
            test_per_class: 2,
            height: 90,
            width: 120,
        };
        let damaged = images(photographs, |root| {
            let classes = std::fs::read_dir(root.join("train")).unwrap();
            let mut classes: Vec<_> = classes.map(|class| class.unwrap().path()).collect();
            classes.sort();
            std::fs::write(classes[1].join("cut.jpg"), "no image").unwrap();
            std::fs::write(classes[1].join("notes.txt"), "a note").unwrap();
            let first = std::fs::read_dir(&classes[0]).unwrap().next().unwrap();
            let first = first.unwrap().path();
            // a validation split, and a class with fewer images than the others
            let validation = root.join("val").join(classes[0].file_name().unwrap());
            std::fs::create_dir_all(&validation).unwrap();
            std::fs::rename(&first, validation.join("1.jpg")).unwrap();
        });
        golden("init-photographs.yaml", &damaged, &BUDGET);
        let short = Budget {
            minutes: 1,
            ..BUDGET
        };
        let many = Amount {
            train_per_class: 60,
            test_per_class: 200,
            height: 30,
            width: 34,
            ..SMALL
        };
        golden("init-one-minute.yaml", &images(many, |_| ()), &short);
    }

    #[test]
    fn a_larger_budget_never_makes_a_smaller_comparison() {
        let images = images(
            Amount {
                train_per_class: 60,
                ..SMALL
            },
            |_| (),
        );
        let mut before = Duration::ZERO;
        for minutes in [1, 2, 5, 10, 30, 100, 1000] {
            let proposal = propose(&images, &Budget { minutes, ..BUDGET });
            let estimate = proposal
                .map_err(|errors| errors.to_string())
                .unwrap()
                .estimate;
            assert!(estimate >= before, "{minutes} minutes: {estimate:?}");
            assert!(minutes == 1 || estimate.as_secs() <= u64::from(minutes) * 60);
            before = estimate;
        }
        let with_gpus = propose(
            &images,
            &Budget {
                has_gpus: true,
                minutes: 1,
                ..BUDGET
            },
        );
        let with_gpus = with_gpus.map_err(|errors| errors.to_string()).unwrap();
        assert_eq!(with_gpus.estimate, before, "the largest");
        assert!(with_gpus.text.contains("on GPUs the time is not estimated"));
    }

    #[test]
    fn names_of_folders_become_names_of_sweeps() {
        for (folder, expected) in [
            ("birds", "birds"),
            ("My Birds (2024)", "My-Birds--2024"),
            ("_hidden", "hidden"),
            ("rehearsal-smoke", "rehearsal"),
            ("植物", "images"),
            ("", "images"),
        ] {
            assert_eq!(name(folder), expected.trim_end_matches('-'), "{folder}");
        }
        assert_eq!(quoted("no"), "\"no\"");
        assert_eq!(quoted("7"), "\"7\"");
        assert_eq!(quoted("black footed albatross"), "black footed albatross");
        assert_eq!(quoted("a: b"), "\"a: b\"");
    }
}
