//! A user's own images from the folder to the table: skipped files are reported, undecodable ones
//! are refused or left out as the sweep requests, and sizes follow the images.

use std::path::{Path, PathBuf};
use std::process::Output;

use tests::System;

/// Writes a square bitmap of one colour. Rows of a bitmap have a multiple of four bytes.
fn bitmap(path: &Path, side: u32, colour: [u8; 3]) {
    assert_eq!(side % 4, 0);
    let bytes_of_pixels = side * side * 3;
    let mut bytes = b"BM".to_vec();
    let format = 1 | 24 << 16;
    for field in [
        54 + bytes_of_pixels,
        0,
        54,
        40,
        side,
        side,
        format,
        0,
        bytes_of_pixels,
        0,
        0,
        0,
        0,
    ] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(colour.repeat((side * side) as usize));
    std::fs::create_dir_all(path.parent().expect("it is in a folder"))
        .expect("the test's folder can be written");
    std::fs::write(path, bytes).expect("the test's folder can be written");
}

/// Four training images and two test images of each of two classes.
fn pets(system: &System, side: u32) -> PathBuf {
    let root = system.path("data/pets");
    for (class, colour) in [("cat", [200, 30, 30]), ("dog", [30, 30, 200])] {
        for (split, count) in [("train", 4), ("test", 2)] {
            let file = |number| root.join(format!("{split}/{class}/{number}.bmp"));
            (0..count).for_each(|number| bitmap(&file(number), side, colour));
        }
    }
    root
}

#[test]
fn corrupt_images_are_refused_or_left_out_by_the_sweeps_setting() {
    let system = System::new();
    let root = pets(&system, 8);
    bitmap(&root.join("train/@eaDir/0.bmp"), 8, [0; 3]);
    std::fs::write(root.join("train/cat/bad.jpg"), "<html>404</html>")
        .expect("the test's folder can be written");
    let run = |policy: &str| -> Output {
        system.file(
            "pets.yaml",
            &format!(
                "name: pets-{policy}\nrecipe: quick\naxes: {{loss: [xent]}}\nset: {{dataset: \"folder:pets\", corrupt: {policy}, \
                 model: resnet-8, batch_size: 4, schedule: {{constant: {{epochs: 1}}}}}}\n"
            ),
        );
        let arguments = [
            "run",
            "pets.yaml",
            "--devices",
            "cpu",
            "--slots",
            "1",
            "--devices-per-slot",
            "1",
        ];
        let mut command = system.orchestrator(&arguments);
        command
            .args(["--data-dir", "data", "--cache-dir", "cache"])
            .output()
            .expect("the client starts")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let refused = run("refuse");
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{stderr}");
    for part in [
        "not taken for classes: @eaDir",
        "1 of 13 images",
        "bad.jpg: it is no image",
        "corrupt: skip",
    ] {
        assert!(stderr.contains(part), "no `{part}` in {stderr}");
    }
    let skipped = run("skip");
    let (stdout, stderr) = (text(&skipped.stdout), text(&skipped.stderr));
    assert_eq!(skipped.status.code(), Some(0), "{stderr}");
    let footnote =
        "Left out of `folder:pets` (corrupt: skip), because they cannot be decoded: 1 image\n";
    assert!(stdout.contains(footnote), "{stdout}");
    let plan = system
        .orchestrator(&["plan", "pets.yaml", "--data-dir", "data"])
        .output()
        .expect("the client starts");
    let plan = text(&plan.stdout);
    for part in [
        "resize 8, crop_size 8",
        "corrupt skip",
        "model resnet-8",
        "not taken for classes: @eaDir",
    ] {
        assert!(plan.contains(part), "no `{part}` in {plan}");
    }
}

/// Nothing is changed in the file, and nothing is left to name but where the images are.
#[test]
fn the_sweep_that_init_writes_trains_as_it_stands() {
    let system = System::new();
    pets(&system, 48);
    let printed = |arguments: &[&str]| {
        let mut command = system.orchestrator(arguments);
        command.args(["--data-dir", "data", "--cache-dir", "cache"]);
        let output = command.output().expect("the client starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        String::from_utf8(output.stdout).expect("output is UTF-8")
    };
    printed(&["init", "data/pets", "--minutes", "1"]);
    let table = printed(&["run", "pets.yaml", "--devices", "cpu"]);
    for loss in ["xent", "cos"] {
        let mut rows = table.lines().filter(|line| line.starts_with(loss));
        assert!(
            rows.any(|row| row.contains('±')),
            "no mean of {loss}: {table}"
        );
    }
}
