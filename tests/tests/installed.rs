//! The wheel and the bundle of `make wheel` and `make dist`, installed and used as on another
//! machine. `make test-dist` runs these: they take libtorch's wheels from pip, and train.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use tests::binaries::binary;
use tests::results::undisturbed_files;

const MISSING: &str = "error: the trainer needs libtorch 2.11.0, which is not here yet: run `orchestrator setup` once\n";

const SWEEP: &str = "
name: small
recipe: quick
set: {dataset: digits, model: resnet-8, samples_per_class: 5, schedule: {constant: {epochs: 2}}}
axes:
  loss: [xent, cos]
seeds: 2
outputs:
  - table: {rows: loss}
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

/// The folder of `make dist`.
fn dist() -> PathBuf {
    binary("orchestrator")
        .ancestors()
        .nth(2)
        .expect("binaries lie in target/release")
        .join("dist")
}

/// The newest package with this end of its name.
fn package(end: &str) -> PathBuf {
    let entries = fs::read_dir(dist()).expect("`make wheel` and `make dist` have run");
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .max_by_key(|path| path.metadata().expect("it is there").modified().ok())
        .unwrap_or_else(|| panic!("no package {end}: `make wheel` and `make dist` make them"))
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The results of a sweep, trained by the binaries of this build; `make run` starts the same command.
fn expected(sweep: &Path, name: &str) -> BTreeMap<String, Vec<u8>> {
    let place = TempDir::new().expect("a folder for temporary files");
    let mut command = Command::new(binary("orchestrator"));
    command.arg("run").arg(sweep).current_dir(place.path());
    succeeds(command.stderr(Stdio::null()));
    results(place.path(), name)
}

/// The files that the same sweep gives everywhere on this machine.
fn results(place: &Path, name: &str) -> BTreeMap<String, Vec<u8>> {
    undisturbed_files(&place.join("results").join(name))
}

fn write_sweep(folder: &Path) -> PathBuf {
    let file = folder.join("small.yaml");
    fs::write(&file, SWEEP).expect("the file can be written");
    file
}

/// A package index on loopback; ends with the test.
struct Index {
    server: Child,
    address: String,
}

impl Index {
    /// Serves the wheels of libtorch for CPUs, which pip fetches if they are not there from before.
    fn start() -> Self {
        let folder = dist().join("index");
        let list = root().join("scripts/libtorch-cpu.txt");
        let stamp = folder.join("complete");
        if !stamp.exists() {
            let mut command = Command::new("python3");
            command.args(["-m", "pip", "download", "--quiet", "--no-deps"]);
            command.args(["--require-hashes", "--only-binary", ":all:"]);
            command.args(["--implementation", "cp", "--python-version", "3.11"]);
            for platform in [
                "manylinux_2_28",
                "manylinux_2_27",
                "manylinux_2_25",
                "manylinux2014",
            ] {
                command.arg("--platform").arg(format!("{platform}_x86_64"));
            }
            command.arg("--requirement").arg(&list).arg("--dest");
            succeeds(command.arg(folder.join("files")));
        }
        let pins = fs::read_to_string(list).expect("the list is there");
        let wheels: Vec<_> = fs::read_dir(folder.join("files"))
            .expect("pip has made it")
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        for pin in pins.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = pin.split_once("==").expect("NAME==VERSION");
            let (version, hash) = rest.split_once(" --hash=sha256:").expect("a hash follows");
            let start = format!("{}-{version}-", name.replace('-', "_"));
            let wheel = wheels
                .iter()
                .find(|wheel| wheel.starts_with(&start))
                .unwrap_or_else(|| panic!("pip has not fetched {start}"));
            let page = folder.join("simple").join(name);
            fs::create_dir_all(&page).expect("the folder can be made");
            let link = format!("<a href=\"../../files/{wheel}#sha256={hash}\">{wheel}</a>\n");
            fs::write(page.join("index.html"), link).expect("the page can be written");
        }
        fs::write(stamp, "").expect("the folder can be written");
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("loopback has a port")
            .port();
        let server = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(&folder)
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Self {
            server,
            address: format!("http://127.0.0.1:{port}/simple"),
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
#[ignore = "make test-dist"]
fn the_wheel_fetches_libtorch_and_trains() {
    let place = TempDir::new().expect("a folder for temporary files");
    let environment = place.path().join("environment");
    succeeds(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(&environment),
    );
    let pip = environment.join("bin/pip");
    succeeds(
        Command::new(pip)
            .args(["install", "--no-index"])
            .arg(package(".whl")),
    );
    let program = |arguments: &[&str]| {
        let mut command = Command::new(environment.join("bin/orchestrator"));
        command
            .args(arguments)
            .current_dir(place.path())
            .env_clear()
            .env("HOME", place.path())
            .env("PATH", "/usr/bin:/bin");
        command
    };
    let sweep = environment.join("share/orchestrator/sweeps/quickstart.yaml");
    assert!(sweep.exists(), "the wheel brings the sweeps");
    let small = write_sweep(place.path());
    let sweep = small.to_str().expect("UTF-8");
    for arguments in [
        ["run", sweep, "--output", "text"],
        ["worker", "--coordinator", "http://127.0.0.1:1", "--quiet"],
    ] {
        let output = program(&arguments).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2));
        let lines = stderr(&output);
        let last = lines.lines().last().unwrap_or_default();
        assert_eq!(format!("{last}\n"), MISSING, "{lines}");
    }
    let index = Index::start();
    let ready = succeeds(&mut program(&["setup", "--cpu", "--index", &index.address]));
    assert!(ready.contains("libtorch 2.11.0 (cpu) is ready"), "{ready}");
    drop(index);
    let again = succeeds(&mut program(&["setup", "--cpu"]));
    assert_eq!(again, ready, "nothing is fetched twice");
    succeeds(&mut program(&["run", sweep, "--quiet"]));
    assert_equal(&results(place.path(), "small"), &expected(&small, "small"));
}

/// Names the files that differ, not their content.
fn assert_equal(found: &BTreeMap<String, Vec<u8>>, expected: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    let differ: Vec<_> = found
        .iter()
        .filter(|file| expected[file.0] != *file.1)
        .collect();
    let differ: Vec<_> = differ.iter().map(|file| file.0).collect();
    assert!(
        differ.is_empty(),
        "other bytes than this build's: {differ:?}"
    );
}

/// Quickstart, to the bytes of `make run`. Needs root, which may hide folders from a process.
#[test]
#[ignore = "make test-dist"]
fn the_bundle_trains_without_checkout_python_and_network() {
    let place = TempDir::new().expect("a folder for temporary files");
    succeeds(
        Command::new("tar")
            .arg("-xJf")
            .arg(package("-cpu.tar.xz"))
            .arg("-C")
            .arg(place.path()),
    );
    let hidden = "set -e
        ip link set lo up
        for folder in \"$CHECKOUT\" \"$HOME\"; do mount -t tmpfs hidden \"$folder\"; done
        for python in $(type -aP python3 python) /usr/bin/python3*; do
          if [ -e \"$python\" ]; then mount --bind /dev/null \"$python\"; fi
        done
        cd \"$PLACE\"/orchestrator-*/
        exec env -i bin/orchestrator run sweeps/quickstart.yaml --quiet";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "-n", "bash", "-c", hidden])
        .env("CHECKOUT", root())
        .env("PLACE", place.path());
    let table = succeeds(&mut command);
    assert!(table.contains("accuracy"), "{table}");
    let mut entries = fs::read_dir(place.path()).expect("a readable folder");
    let folder = entries.next().expect("the archive has a folder");
    let found = results(&folder.expect("a readable folder").path(), "quickstart");
    let sweep = root().join("sweeps/quickstart.yaml");
    assert_equal(&found, &expected(&sweep, "quickstart"));
}
