//! The files that a sweep keeps of a trial, and `predict` with them: the kept network gives an image, read from a
//! file, the scores that the trial's own evaluation gave it.

mod rig;

use std::io::Read;
use std::path::Path;

use sweep::TrialSpec;
use sweep::handoff::RunRequest;
use sweep::keep::Kept;
use sweep::record::TrialResult;
use sweep::settings::{Corrupt, Loss, SamplesPerClass, Schedule, Settings};
use trainer::{Model, Session};

fn spec(loss: Loss, replicas: u32) -> TrialSpec {
    let settings = Settings {
        samples_per_class: SamplesPerClass::Count(8),
        loss,
        replicas,
        schedule: Schedule::Cosine { epochs: 4 },
        ..sweep::recipe::settings("quick", "digits").expect("a recipe")
    };
    TrialSpec::new(settings, 3)
}

fn run(spec: &TrialSpec, folder: &Path) -> TrialResult {
    let request = RunRequest {
        keep: Kept::WORDS.iter().map(|(_, kept)| *kept).collect(),
        ..rig::request(spec, 2, folder)
    };
    rig::finish(&mut Session::new(rig::options()), &request)
}

/// The rows of predictions.csv.gz after its head; no name of the digits holds a comma.
fn predictions(spec: &TrialSpec, folder: &Path) -> Vec<Vec<String>> {
    let path = rig::checkpoints(spec, folder).join("predictions.attempt-2.csv.gz");
    let file = std::fs::File::open(path);
    let mut text = String::new();
    flate2::read::GzDecoder::new(file.expect("predictions are kept"))
        .read_to_string(&mut text)
        .expect("a whole file");
    let mut rows = text
        .lines()
        .map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let head = rows.next().expect("a head");
    assert_eq!(
        head[..7].join(","),
        "image,path,label,label_name,predicted,predicted_name,score_0"
    );
    // the digits are part of the program, and have no files
    let without_path = |mut row: Vec<String>| {
        assert_eq!(row.remove(1), "");
        row
    };
    rows.map(without_path).collect()
}

#[test]
fn predictions_are_those_that_the_result_counts() {
    for (loss, replicas) in [(Loss::Xent, 1), (Loss::Mse, 1), (Loss::CosXent, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(loss, replicas);
        let result = run(&spec, folder.path());
        let rows = predictions(&spec, folder.path());
        assert_eq!(rows.len(), result.provenance.num_eval_images as usize);
        let correct: Vec<bool> = rows.iter().map(|row| row[1] == row[3]).collect();
        let share = correct.iter().filter(|correct| **correct).count() as f64 / rows.len() as f64;
        assert_eq!(share, result.last_accuracy, "{loss:?}");
        let classes = result.classes.expect("counts of classes");
        for (class, (images, of_class)) in classes.classes().enumerate() {
            let own = |row: &&Vec<String>| row[1] == class.to_string();
            assert_eq!(rows.iter().filter(own).count(), images as usize);
            let right = |row: &&Vec<String>| own(row) && row[1] == row[3];
            assert_eq!(rows.iter().filter(right).count(), of_class as usize);
        }
        let confusion = rig::checkpoints(&spec, folder.path()).join("confusion.attempt-2.csv");
        let confusion = std::fs::read_to_string(confusion).unwrap();
        let mut images = 0;
        for pair in confusion.lines().skip(1) {
            let pair: Vec<&str> = pair.split(',').collect();
            let of_pair = |row: &&Vec<String>| row[1..5] == pair[..4];
            let found = rows.iter().filter(of_pair).count();
            assert_eq!(found.to_string(), pair[4], "{pair:?}");
            images += found;
        }
        assert_eq!(images, rows.len(), "no pair is missing");
        let last = result.epochs.last().unwrap();
        assert_eq!(last.balanced_accuracy, Some(result.last_balanced_accuracy));
        assert_eq!(last.eval_loss, Some(result.eval_loss));
        let top5 = last.top5_accuracy.unwrap();
        assert!((result.last_accuracy..=1.0).contains(&top5), "{top5}");
        let places: Vec<usize> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
        assert_eq!(places, (0..rows.len()).collect::<Vec<_>>());
    }
}

/// Writes a grey image as a bitmap of 24 bits.
fn bitmap(image: &data::Image, path: &Path) {
    let (height, width) = (image.height, image.width);
    let line = (3 * width).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    bytes.extend(((54 + line * height) as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(54u32.to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend((width as i32).to_le_bytes());
    bytes.extend((height as i32).to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(24u16.to_le_bytes());
    bytes.extend([0; 24]);
    // lines from the bottom up
    for row in image.pixels.chunks_exact(width).rev() {
        let start = bytes.len();
        bytes.extend(row.iter().flat_map(|value| [*value; 3]));
        bytes.resize(start + line, 0);
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_kept_network_gives_image_files_the_scores_of_its_trial() {
    for loss in [Loss::Xent, Loss::Cos] {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(loss, 1);
        run(&spec, folder.path());
        let weights = rig::checkpoints(&spec, folder.path()).join("weights.attempt-2.safetensors");
        let model = Model::open(&weights, 1).unwrap();
        let request = data::OpenRequest {
            dataset: "digits",
            resize: None,
            test_resize: None,
            reach: data::files::Reach {
                data_dir: folder.path(),
                allowed: None,
            },
            cache_dir: folder.path(),
            corrupt: Corrupt::Refuse,
            smoke: false,
        };
        let dataset = data::open(&request, &|_, _| ()).unwrap();
        for row in predictions(&spec, folder.path()).iter().step_by(50) {
            let place: usize = row[0].parse().unwrap();
            let path = folder.path().join(format!("{place}.bmp"));
            bitmap(&dataset.test.image(place), &path);
            let found = model.predict(&path).unwrap();
            assert_eq!(found.class, row[4]);
            assert_eq!(found.probability.is_some(), loss == Loss::Xent);
            for (score, kept) in found.scores.iter().zip(&row[5..]) {
                let kept: f32 = kept.parse().unwrap();
                assert!(
                    (score - kept).abs() <= 1e-5 * kept.abs().max(1.0),
                    "{score}, not {kept}"
                );
            }
            let probability = found.probability.unwrap_or(1.0);
            assert!(probability > 0.1 && probability <= 1.0, "{probability}");
        }
    }
}

#[test]
fn weights_that_do_not_describe_their_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    let error = Model::open(&path, 1).err().expect("it is refused");
    let error = error.to_string();
    assert!(error.contains("`keep: [weights]`"), "{error}");
}
