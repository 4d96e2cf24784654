//! Tests of the repository's tidiness: file headers, lengths, words, crate borders, and documents
//! that name existing tests.
//!
//! A rule that needs an exception has a list beside it, with the reason of each entry. Style is not
//! checked here: rustfmt and clippy check it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Limit of a file's lines, without its `#[cfg(test)]` module; and that of a file of tests.
const MAX_LINES: usize = 660;
const MAX_LINES_OF_TESTS: usize = 900;

/// Exceptions: path and reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// The crates of this workspace that each crate may use. `tests` drives processes and uses none.
const EDGES: [(&str, &[&str]); 15] = [
    ("sweep", &[]),
    ("schedule", &["sweep"]),
    ("report", &["sweep", "schedule"]),
    ("journal", &["schedule"]),
    ("launch", &["sweep", "schedule"]),
    ("protocol", &["sweep", "schedule"]),
    (
        "coordinator",
        &[
            "sweep", "schedule", "journal", "protocol", "report", "export", "page",
        ],
    ),
    ("page", &["sweep", "schedule", "report", "protocol"]),
    ("worker", &["sweep", "schedule", "protocol"]),
    ("trust", &[]),
    ("data", &["sweep", "trust"]),
    ("export", &["trust"]),
    ("trainer", &["sweep", "data"]),
    (
        "cli",
        &[
            "sweep",
            "schedule",
            "report",
            "journal",
            "launch",
            "page",
            "protocol",
            "coordinator",
            "worker",
            "data",
            "export",
        ],
    ),
    ("tests", &[]),
];

#[test]
fn every_rust_file_opens_with_its_purpose() {
    let bare: Vec<_> = rust_files()
        .into_iter()
        .filter(|file| !read(file).starts_with("//! "))
        .map(|file| shown(&file))
        .collect();
    assert!(
        bare.is_empty(),
        "files that do not open with `//! ` and their purpose: {bare:#?}"
    );
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut long = Vec::new();
    for file in rust_files() {
        let text = read(&file);
        let lines = without_test_module(&text).lines().count();
        let excused = LONG_FILES.iter().any(|(path, _)| *path == shown(&file));
        let is_test = shown(&file).contains("tests/");
        if lines
            > (if is_test {
                MAX_LINES_OF_TESTS
            } else {
                MAX_LINES
            })
            && !excused
        {
            long.push(format!("{} has {lines} lines", shown(&file)));
        }
    }
    assert!(
        long.is_empty(),
        "split these files (limit {MAX_LINES} without tests, {MAX_LINES_OF_TESTS} for tests): {long:#?}"
    );
}

#[test]
fn modules_and_types_are_named_after_what_they_do() {
    let empty_words = [
        "util", "utils", "manager", "helper", "helpers", "common", "misc",
    ];
    let mut found = Vec::new();
    for file in rust_files() {
        let names = file
            .components()
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        if names
            .into_iter()
            .any(|name| empty_words.contains(&name.trim_end_matches(".rs")))
        {
            found.push(shown(&file));
        }
        for line in read(&file).lines() {
            let mut words = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .skip_while(|word| !matches!(*word, "mod" | "struct" | "enum" | "trait"));
            let (Some(kind), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let declares =
                line.trim_start().starts_with("pub") || line.trim_start().starts_with(kind);
            let empty_type = ["Util", "Utils", "Manager", "Helper"]
                .iter()
                .any(|word| name.ends_with(word));
            if declares && (empty_type || kind == "mod" && empty_words.contains(&name)) {
                found.push(format!("{}: {kind} {name}", shown(&file)));
            }
        }
    }
    assert!(found.is_empty(), "names that say nothing: {found:#?}");
}

#[test]
fn no_file_names_a_machine_or_a_package_registry() {
    // Written in two halves, so that this file passes its own test.
    let banned = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/home", "/"),
        concat!("py", "pi.org"),
        concat!("pythonhosted", ".org"),
        concat!("crates", ".io"),
        concat!("download.pytorch", ".org"),
    ];
    let mut found = Vec::new();
    for file in text_files(&root()) {
        for (number, line) in read(&file).lines().enumerate() {
            if let Some(word) = banned.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{} says {word}", shown(&file), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let edges: BTreeMap<_, BTreeSet<_>> = EDGES
        .iter()
        .map(|(name, uses)| (*name, uses.iter().copied().collect()))
        .collect();
    let metadata = metadata(&["--no-deps"]);
    for package in metadata["packages"]
        .as_array()
        .expect("cargo metadata lists packages")
    {
        let name = text(&package["name"]);
        let allowed = edges
            .get(name)
            .unwrap_or_else(|| panic!("crate `{name}` has no entry in EDGES"));
        for dependency in package["dependencies"]
            .as_array()
            .expect("packages list dependencies")
        {
            let uses = text(&dependency["name"]);
            let of_this_workspace = dependency["path"].is_string();
            // Tests of a crate may use more crates, but only the trainer may bring libtorch in.
            if of_this_workspace && dependency["kind"] != "dev" {
                assert!(
                    allowed.contains(uses),
                    "crate `{name}` must not depend on `{uses}` (see EDGES)"
                );
            }
            assert!(
                name == "trainer" || !["tch", "torch-sys"].contains(&uses),
                "`{name}` links libtorch through `{uses}`"
            );
        }
    }
}

/// With other features, `make test` would compile a crate again that `make build` has compiled, and
/// every crate that uses it.
#[test]
fn tests_compile_no_dependency_of_the_programs_again() {
    let programs = features(&["-e", "normal,build", "-p", "cli", "-p", "trainer"]);
    let everything = features(&["-e", "normal,build,dev", "--workspace"]);
    let twice: Vec<_> = programs.difference(&everything).collect();
    assert!(
        programs.len() > 100 && twice.is_empty(),
        "tests want these with other features: {twice:#?}"
    );
}

/// Tests may use any folder.
#[test]
fn folders_of_the_trainer_use_those_below_them() {
    let from_the_top = ["conversation", "attempt", "step", "network", "device"];
    let source = root().join("src/trainer/src");
    let mut upward = Vec::new();
    let mut count = 0;
    for (place, folder) in from_the_top.iter().enumerate() {
        for file in text_files(&source.join(folder)) {
            let name = shown(&file);
            if ["tests.rs", "drills.rs", "contract.rs"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                continue;
            }
            let text = read(&file);
            let code = text.split("#[cfg(test)]\nmod tests {").next();
            for used in code.unwrap_or_default().split("crate::").skip(1) {
                let used = used
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next();
                let used = used.unwrap_or_default();
                count += usize::from(from_the_top.contains(&used));
                let is_error = used == "error" && ["network", "device"].contains(folder);
                if from_the_top[..place].contains(&used) || is_error {
                    upward.push(format!("{name} uses crate::{used}"));
                }
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
    assert!(
        count >= 50,
        "only {count} uses found: is the search still right?"
    );
}

/// Licences of dependencies that allow a binary to be given away under MIT OR Apache-2.0, as long as
/// their notices come with it.
const LICENCES: [&str; 9] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Exceptions: crate, licence and reason.
const OTHER_LICENCES: [(&str, &str, &str); 1] = [(
    "webpki-roots",
    "CDLA-Permissive-2.0",
    "the list of root certificates, which is data and may be shared with its licence text",
)];

#[test]
fn every_dependency_has_a_licence_that_allows_this_one() {
    // Only the crates of this platform are downloaded by a build.
    let metadata = metadata(&["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let nodes = metadata["resolve"]["nodes"].as_array();
    let used: BTreeSet<&str> = nodes
        .expect("cargo metadata resolves dependencies")
        .iter()
        .map(|node| text(&node["id"]))
        .collect();
    let packages = metadata["packages"].as_array();
    let packages = packages.expect("cargo metadata lists packages").iter();
    let mut checked = 0;
    let mut refused = Vec::new();
    for package in packages.filter(|package| used.contains(text(&package["id"]))) {
        let name = text(&package["name"]);
        let licence = package["license"].as_str().unwrap_or("no licence");
        let excused = OTHER_LICENCES
            .iter()
            .any(|(other, of, _)| (*other, *of) == (name, licence));
        checked += 1;
        if !excused && !is_allowed(licence) {
            refused.push(format!("{name}: {licence}"));
        }
    }
    assert!(
        refused.is_empty(),
        "licences that are not in LICENCES: {refused:#?}"
    );
    assert!(checked > 100, "only {checked} crates were checked");
}

/// Returns true if a licence expression can be met: one of the choices of each of its parts.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        let choices = part.trim_matches(['(', ')', ' ']).split(" OR ");
        choices
            .map(str::trim)
            .any(|licence| LICENCES.contains(&licence))
    })
}

/// The page carries uPlot inside the binary.
#[test]
fn vendored_code_has_a_licence_that_allows_this_one() {
    let licence = read(&root().join("src/page/assets/uPlot.LICENSE"));
    assert!(licence.contains("MIT License"), "{licence}");
    let code = read(&root().join("src/page/assets/uPlot.iife.min.js"));
    assert!(code.starts_with("/*! https://github.com/leeoniya/uPlot (v1.6.32) */"));
}

#[test]
fn a_licence_is_allowed_if_each_of_its_parts_offers_a_choice_that_is() {
    for allowed in ["MIT", "MIT/Apache-2.0", "(GPL-3.0 OR MIT) AND ISC"] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in ["GPL-3.0", "no licence", "MIT AND GPL-3.0", ""] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn unsafe_code_stays_in_the_trainer_and_explains_why_it_is_sound() {
    let mut found = Vec::new();
    for file in rust_files() {
        let name = shown(&file);
        if name == "tests/tests/tidy.rs" {
            continue;
        }
        let source = read(&file);
        let lines: Vec<_> = source.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let opens = ["unsafe {", "unsafe impl"]
                .iter()
                .any(|form| line.contains(form));
            if !opens || line.trim_start().starts_with("//") {
                continue;
            }
            // src/data maps files; all other unsafe code is for libtorch, in the trainer.
            if !name.starts_with("src/trainer/") && !name.starts_with("src/data/") {
                found.push(format!(
                    "{name}:{}: unsafe outside src/trainer and src/data",
                    index + 1
                ));
            }
            let excused = lines[index.saturating_sub(6)..=index]
                .iter()
                .any(|line| line.contains("SAFETY:"));
            if !excused {
                found.push(format!("{name}:{}: no SAFETY comment", index + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Documents cite tests as `path/to/file.rs::name_of_test`; each must exist.
#[test]
fn tests_that_documents_cite_exist() {
    let mut cited = 0;
    let documents = text_files(&root().join("docs"))
        .into_iter()
        .chain([root().join("README.md")]);
    for document in
        documents.filter(|file| file.extension().is_some_and(|extension| extension == "md"))
    {
        let (text, document) = (read(&document), shown(&document));
        for citation in text.split('`').filter(|word| word.contains(".rs::")) {
            let (path, name) = citation.split_once("::").expect("just looked for it");
            let source = std::fs::read_to_string(root().join(path))
                .unwrap_or_else(|error| panic!("{document} cites {citation}, and {path}: {error}"));
            assert!(
                source.contains(&format!("fn {name}(")),
                "{document} cites {citation}, and {path} has no such test"
            );
            cited += 1;
        }
    }
    assert!(
        cited >= 9,
        "docs/ARCHITECTURE.md names the test of each promise, P1 to P9; only {cited} citations found"
    );
}

/// The walks of docs/ARCHITECTURE.md follow one thing through the files, each of them once.
#[test]
fn walks_name_files_that_exist_and_none_twice() {
    let document = read(&root().join("docs/ARCHITECTURE.md"));
    let mut walks = 0;
    for section in document.split("\n## ").filter(|s| s.starts_with("A walk")) {
        let title = section.lines().next().unwrap_or_default();
        let words = section.split('`');
        let files: Vec<_> = words.filter(|word| word.ends_with(".rs")).collect();
        let mut seen = BTreeSet::new();
        for file in &files {
            let path = root().join("src").join(file);
            assert!(path.exists(), "{title}: no file {}", shown(&path));
            assert!(seen.insert(file), "{title}: {file} is named twice");
        }
        assert!(files.len() > 5, "{title}: only {} files", files.len());
        walks += 1;
    }
    assert!(walks > 0, "no walk was found");
}

/// Documents list the columns of a sweep's files as the golden files of src/report have them.
#[test]
fn every_column_of_the_results_is_described() {
    let document = read(&root().join("docs/results-folder.md"));
    let axes = ["loss", "samples_per_class"];
    let mut missing = Vec::new();
    for file in ["results", "timing", "main"] {
        let golden = read(&root().join(format!("src/report/tests/goldens/statuses.{file}.csv")));
        let columns: Vec<_> = golden
            .lines()
            .next()
            .expect("a heading")
            .split(',')
            .collect();
        assert!(columns.len() > 10, "{file}: {columns:?}");
        // The settings have one row for all; docs/sweep-file.md lists them.
        let described = |column: &str| {
            let name = match column.strip_prefix("settings.") {
                Some(_) => "settings.NAME",
                None => column,
            };
            document.contains(&format!("`{name}`")) || axes.contains(&column)
        };
        missing.extend(
            columns
                .iter()
                .filter(|column| !described(column))
                .map(|column| format!("{file}: {column}")),
        );
    }
    assert!(
        missing.is_empty(),
        "docs/results-folder.md does not describe {missing:#?}"
    );
}

/// Relative links in documents, to each other and to the source, lead to existing paths.
#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    let mut count = 0;
    let documents = text_files(&root()).into_iter();
    for document in
        documents.filter(|file| file.extension().is_some_and(|extension| extension == "md"))
    {
        let folder = document.parent().expect("files lie in folders");
        let text = read(&document);
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target)
        {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                count += 1;
                if !folder.join(path).exists() {
                    dead.push(format!("{}: {target}", shown(&document)));
                }
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere: {dead:#?}");
    assert!(
        count >= 10,
        "only {count} links found: is the search still right?"
    );
}

/// Words that have a better one in this field: send, report, receive, retry, fix.
const BANNED_WORDS: [&str; 22] = [
    "said",
    "say",
    "says",
    "told",
    "tell",
    "tells",
    "hear",
    "hears",
    "heard",
    "mend",
    "mended",
    "mends",
    "spoil",
    "spoilt",
    "affair",
    "anew",
    "nobody",
    "everybody",
    "somebody",
    "whoever",
    "thereby",
    "henceforth",
];
const BANNED_PHRASES: [&str; 6] = [
    "so many",
    "stands for",
    "goes on",
    "go on",
    "gone on",
    "went on",
];

fn has_banned_words(text: &str) -> bool {
    let lower = format!(" {} ", text.to_lowercase());
    let mut words = lower.split(|c: char| !c.is_alphanumeric());
    words.any(|word| BANNED_WORDS.contains(&word))
        || BANNED_PHRASES
            .iter()
            .any(|phrase| lower.contains(&format!(" {phrase} ")))
}

/// Comments use the field's words, and a doc comment opens with a noun phrase or a verb. Names of
/// functions use the field's words too.
#[test]
fn comments_and_names_are_plain_english() {
    let openings = ["Of ", "By ", "As ", "Until ", "What ", "Whether "];
    let mut found = Vec::new();
    for file in rust_files()
        .into_iter()
        .filter(|file| shown(file) != "tests/tests/tidy.rs")
    {
        let text = read(&file);
        let mut follows_a_comment = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let Some(comment) = line.strip_prefix("//") else {
                follows_a_comment = false;
                let name = line.split_once("fn ").map(|(_, rest)| rest);
                let name = name.and_then(|rest| rest.split(['(', '<']).next());
                if name.is_some_and(has_banned_words) {
                    found.push(format!("{}:{}: {line}", shown(&file), number + 1));
                }
                continue;
            };
            let is_doc = comment.starts_with(['/', '!']);
            let comment = comment.trim_start_matches(['/', '!']).trim_start();
            let opens_badly = is_doc
                && !follows_a_comment
                && openings.iter().any(|opening| comment.starts_with(opening));
            if opens_badly || has_banned_words(comment) {
                found.push(format!("{}:{}: {comment}", shown(&file), number + 1));
            }
            follows_a_comment = true;
        }
    }
    assert!(
        found.is_empty(),
        "rewrite these comments and names (CONTRIBUTING.md, Rules): {found:#?}"
    );
}

/// Documents outside of their code, and comments of everything that is not Rust.
#[test]
fn documents_and_scripts_are_plain_english() {
    let mut found = Vec::new();
    let mut documents = 0;
    for file in text_files(&root()) {
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        let mark = match &*extension {
            "md" => "",
            "proto" | "cpp" | "h" | "cu" => "//",
            "py" | "sh" | "sbatch" | "toml" | "yaml" => "#",
            _ => continue,
        };
        documents += usize::from(mark.is_empty());
        let mut is_code = false;
        for (number, line) in read(&file).lines().enumerate() {
            is_code ^= mark.is_empty() && line.starts_with("```");
            let prose: String = match mark {
                "" if is_code || line.starts_with("    ") => continue,
                "" => line.split('`').step_by(2).collect(),
                _ => match line.trim_start().strip_prefix(mark) {
                    Some(comment) => comment.to_owned(),
                    None => continue,
                },
            };
            if has_banned_words(&prose) {
                found.push(format!("{}:{}: {prose}", shown(&file), number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "rewrite these sentences (CONTRIBUTING.md, Rules): {found:#?}"
    );
    assert!(documents > 20, "only {documents} documents were read");
}

/// Comments cite the facts of the paper as `docs/paper.md, section 2.1` (`sections 4 and 8`); each
/// section must exist.
#[test]
fn sections_of_the_paper_that_comments_cite_exist() {
    let document = read(&root().join("docs/paper.md"));
    let headings: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| {
            line.strip_prefix("### ")
                .or_else(|| line.strip_prefix("#### "))
        })
        .filter_map(|heading| heading.split_whitespace().next())
        .map(|number| number.trim_end_matches('.'))
        .collect();
    let mut cited = 0;
    for file in rust_files()
        .into_iter()
        .filter(|file| shown(file) != "tests/tests/tidy.rs")
    {
        let unwrapped = read(&file)
            .lines()
            .map(|line| line.trim_start().trim_start_matches('/'))
            .collect::<String>();
        let unwrapped = unwrapped.replace('!', " ");
        for (position, _) in unwrapped.match_indices("paper.md") {
            let before = &unwrapped[..position];
            let mut words = unwrapped[position..].split_whitespace().skip(1);
            let kind = words.next().unwrap_or_default();
            let numbers: Vec<&str> = match kind {
                "section" => words.take(1).collect(),
                "sections" => words.step_by(2).take(2).collect(),
                _ => Vec::new(),
            };
            let place = format!("{}: paper.md {kind} {numbers:?}", shown(&file));
            assert!(
                before.ends_with("docs/") && !numbers.is_empty(),
                "{place}: cite `docs/paper.md, section N`"
            );
            for number in numbers {
                let number = number.trim_end_matches(|last: char| !last.is_ascii_digit());
                let number = number
                    .split(|c: char| !c.is_ascii_digit() && c != '.')
                    .next()
                    .unwrap_or_default();
                assert!(
                    headings.contains(number),
                    "{place}: docs/paper.md has no section {number}"
                );
                cited += 1;
            }
        }
    }
    assert!(
        cited >= 15,
        "only {cited} citations found: is the search still right?"
    );
}

/// A test must not use files that a clone does not have.
#[test]
fn nothing_is_read_from_outside_the_repository() {
    let outside = concat!("../sha", "red");
    let found: Vec<_> = rust_files()
        .into_iter()
        .filter(|file| read(file).contains(outside))
        .map(|f| shown(&f))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
        .to_owned()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root())
        .unwrap_or(file)
        .display()
        .to_string()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata gives text here")
}

fn rust_files() -> Vec<PathBuf> {
    let roots = ["src", "tests", "bench"].map(|folder| root().join(folder));
    let files = roots.iter().flat_map(|folder| text_files(folder));
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Returns every file that is not generated, binary or hidden; `.ci` is included.
fn text_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path
            .file_name()
            .expect("entries have names")
            .to_string_lossy()
            .into_owned();
        let generated = [
            "target",
            "results",
            "orchestrator-state",
            "Cargo.lock",
            "__pycache__",
        ]
        .contains(&name.as_str());
        if generated || (name.starts_with('.') && name != ".ci") || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            files.extend(text_files(&path));
        } else if std::fs::read(&path).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok()) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Returns the source up to its test module, if there is one at the end.
fn without_test_module(source: &str) -> &str {
    source
        .find("\n#[cfg(test)]\nmod ")
        .map_or(source, |end| &source[..end])
}

/// Returns each crate that is compiled, with its features.
fn features(arguments: &[&str]) -> BTreeSet<String> {
    let options = ["tree", "--offline", "--locked", "--prefix", "none"];
    let form = ["--target", "x86_64-unknown-linux-gnu", "-f", "{p} {f}"];
    let printed = cargo(&[&options[..], &form, arguments].concat());
    let lines = printed.lines();
    lines
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect()
}

fn metadata(arguments: &[&str]) -> Value {
    let options = ["metadata", "--offline", "--format-version", "1"];
    let printed = cargo(&[&options[..], arguments].concat());
    serde_json::from_str(&printed).expect("cargo metadata prints JSON")
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}
