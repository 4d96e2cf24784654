//! The wheel and the bundle, packed from the binaries of this build: what is in them, that nothing
//! names this machine, and that packing twice gives equal bytes.
//!
//! A few libraries without content take the place of libtorch here. What the packages do where they
//! are installed: installed.rs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::binaries::binary;

const RUNPATH: &str = "$ORIGIN/../lib/orchestrator/torch/lib";

struct Packed {
    place: TempDir,
    file: PathBuf,
}

impl Packed {
    fn new(form: &str) -> Self {
        let place = TempDir::new().expect("a folder for temporary files");
        let libtorch = stand_in_for_libtorch(place.path());
        let output = place.path().join("output");
        let mut command = Command::new("python3");
        command
            .arg(root().join("scripts/package.py"))
            .arg(form)
            .arg("--binaries")
            .arg(
                binary("orchestrator")
                    .parent()
                    .expect("binaries lie in a folder"),
            )
            .arg("--libtorch")
            .arg(&libtorch)
            .arg("--output")
            .arg(&output)
            .args(["--level", "0"])
            .env("SOURCE_DATE_EPOCH", "1700000000");
        let file = printed(&mut command);
        Self {
            place,
            file: PathBuf::from(file.trim()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).expect("the package is there")
    }

    /// Unpacks it and returns its only folder, or for a wheel the folder that it is unpacked into.
    fn unpacked(&self) -> PathBuf {
        let folder = self.place.path().join("unpacked");
        fs::create_dir(&folder).expect("the folder can be made");
        if self.file.extension().is_some_and(|end| end == "whl") {
            let mut command = Command::new("python3");
            printed(
                command
                    .args(["-m", "zipfile", "-e"])
                    .args([&self.file, &folder]),
            );
            return folder;
        }
        let mut command = Command::new("tar");
        printed(command.arg("-xJf").arg(&self.file).arg("-C").arg(&folder));
        let mut entries = fs::read_dir(&folder).expect("a readable folder");
        entries
            .next()
            .expect("the archive has a folder")
            .expect("a readable folder")
            .path()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

/// A folder like that of scripts/libtorch.sh. libtorch_cpu needs one library of the `nvidia` folder.
fn stand_in_for_libtorch(place: &Path) -> PathBuf {
    let site = place.join("libtorch/site");
    let source = place.join("empty.c");
    fs::write(&source, "").expect("the file can be written");
    let library = |path: &str, needs: Option<&Path>| {
        let path = site.join(path);
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("can be made");
        let name = path.file_name().expect("it has a name").to_string_lossy();
        let mut command = Command::new("gcc");
        command.arg(format!("-Wl,-soname,{name}"));
        command
            .args(["-shared", "-Wl,--no-as-needed", "-o"])
            .arg(&path);
        printed(command.arg(&source).args(needs));
        path
    };
    let runtime = library("nvidia/cu13/lib/libcudart.so.13", None);
    library("nvidia/cu13/lib/libnvperf_host.so", None);
    for name in ["libc10.so", "libgomp.so.1", "libtorch_python.so"] {
        library(&format!("torch/lib/{name}"), None);
    }
    library("torch/lib/libtorch_cpu.so", Some(&runtime));
    let licence = site.join("torch-2.11.0.dist-info/licenses/LICENSE");
    fs::create_dir_all(licence.parent().expect("it is in a folder")).expect("can be made");
    fs::write(licence, "of libtorch").expect("the file can be written");
    place.join("libtorch")
}

/// The files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below the folder");
                found.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    found
}

fn runpath(trainer: &Path) -> Option<String> {
    let dynamic = printed(Command::new("readelf").arg("-d").arg(trainer));
    let line = dynamic.lines().find(|line| line.contains("PATH)"))?;
    Some(line.split(['[', ']']).nth(1)?.to_owned())
}

/// Checks that no file names the checkout, its libtorch or the user's home.
fn assert_no_machine_path(folder: &Path) {
    let home = std::env::var("HOME").expect("HOME is set");
    let machine = [root().to_str().expect("UTF-8").to_owned(), home];
    let holds = |bytes: &[u8], path: &str| {
        let path = format!("{path}/");
        bytes
            .windows(path.len())
            .any(|window| window == path.as_bytes())
    };
    for file in files(folder) {
        let bytes = fs::read(folder.join(&file)).expect("the file can be read");
        for path in machine.iter().filter(|path| path.len() > 1) {
            assert!(!holds(&bytes, path), "{file} names {path}");
        }
    }
}

#[test]
fn the_bundle_has_what_it_needs_and_names_no_machine() {
    let packed = Packed::new("bundle");
    assert!(
        packed.bytes() == Packed::new("bundle").bytes(),
        "two bundles of the same binaries differ"
    );
    let folder = packed.unpacked();
    let found = files(&folder);
    for file in [
        "README.md",
        "LICENSE-MIT",
        "bin/orchestrator",
        "bin/orchestrator-trainer",
        "lib/orchestrator/torch/lib/libtorch_cpu.so",
        "lib/orchestrator/nvidia/cu13/lib/libcudart.so.13",
        "licenses/crates.txt",
        "licenses/libtorch/torch-2.11.0.dist-info/licenses/LICENSE",
        "sweeps/quickstart.yaml",
        "deploy/slurm.sbatch",
        "docs/sweep-file.md",
        "share/man/man1/orchestrator-run.1",
        "share/bash-completion/completions/orchestrator",
        "share/zsh/site-functions/_orchestrator",
        "share/fish/vendor_completions.d/orchestrator.fish",
    ] {
        assert!(found.contains(file), "{file} is missing: {found:#?}");
    }
    let left_out = ["libtorch_python.so", "libnvperf_host.so"];
    assert!(
        !found
            .iter()
            .any(|file| left_out.iter().any(|name| file.ends_with(name))),
        "{found:#?}"
    );
    let trainer = folder.join("bin/orchestrator-trainer");
    assert_eq!(runpath(&trainer).as_deref(), Some(RUNPATH));
    assert_no_machine_path(&folder);
    let licences = fs::read_to_string(folder.join("licenses/crates.txt")).expect("it is UTF-8");
    for crate_name in ["tokio ", "tch ", "rusqlite "] {
        assert!(
            licences.lines().any(|line| line.starts_with(crate_name)),
            "no licence of {crate_name}"
        );
    }
    assert!(!licences.contains("proptest "), "tests are not packed");
}

#[test]
fn the_wheel_lists_its_files_and_names_no_machine() {
    let packed = Packed::new("wheel");
    assert!(
        packed.bytes() == Packed::new("wheel").bytes(),
        "two wheels of the same binaries differ"
    );
    let name = packed.file.file_name().expect("it has a name");
    let name = name.to_string_lossy();
    assert!(
        name.starts_with("orchestrator_sweeps-") && name.contains("-py3-none-manylinux_2_"),
        "{name}"
    );
    let folder = packed.unpacked();
    let found = files(&folder);
    let (distribution, version) = name.split_once('-').expect("a version follows");
    let start = format!(
        "{distribution}-{}",
        version.split('-').next().expect("text")
    );
    for file in [
        "data/scripts/orchestrator",
        "data/scripts/orchestrator-trainer",
        "data/data/share/orchestrator/sweeps/quickstart.yaml",
        "data/data/share/orchestrator/deploy/slurm.sbatch",
        "data/data/share/orchestrator/licenses/crates.txt",
        "data/data/share/orchestrator/libtorch-cpu.txt",
        "data/data/share/man/man1/orchestrator.1",
        "dist-info/METADATA",
    ] {
        assert!(
            found.contains(&format!("{start}.{file}")),
            "{file}: {found:#?}"
        );
    }
    for file in ["orchestrator/__init__.py", "orchestrator/py.typed"] {
        assert!(found.contains(file), "{file}: {found:#?}");
    }
    let record = fs::read_to_string(folder.join(format!("{start}.dist-info/RECORD")))
        .expect("the record is UTF-8");
    let listed: BTreeSet<_> = record
        .lines()
        .filter_map(|line| line.split(',').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, found);
    let trainer = folder.join(format!("{start}.data/scripts/orchestrator-trainer"));
    assert_eq!(runpath(&trainer).as_deref(), Some(RUNPATH));
    assert_no_machine_path(&folder);
}
