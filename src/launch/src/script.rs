//! The script of an allocation: a Slurm job of one node whose last line becomes the worker.
//!
//! The worker is the batch process itself, not a step: the signals of `--signal=B:...` and the exit
//! code are its own, and it owns the CPUs and GPUs of the whole job.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schedule::allocation::AllocationId;

/// Everything that the allocations of a queue have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Absolute path of the folder with a folder for each allocation.
    pub folder: PathBuf,
    /// The options of sbatch that users know by this program's flags: `--time=04:00:00`.
    pub options: Vec<String>,
    /// Further options of sbatch as the user wrote them, one word each. Never interpreted.
    pub user_options: Vec<String>,
    /// Time between the signal and the end; see [`notice`].
    pub notice: Duration,
    /// Lines of shell before the worker: modules, environments.
    pub prologue: Option<String>,
    /// A command line before that of the worker, as the user wrote it: `apptainer exec --nv IMAGE`.
    pub wrap: Option<String>,
    /// The worker's command line, without the name of the allocation.
    pub worker: Vec<String>,
}

/// The shortest and the usual notice. Slurm may send its signal a minute late or early.
const SHORTEST_NOTICE: Duration = Duration::from_secs(60);
const USUAL_NOTICE: Duration = Duration::from_secs(120);

/// The time that a worker gets for its checkpoints before an allocation of this length ends.
pub fn notice(time_limit: Option<Duration>) -> Duration {
    match time_limit {
        Some(limit) => (limit / 3).clamp(SHORTEST_NOTICE, USUAL_NOTICE),
        None => USUAL_NOTICE,
    }
}

impl Template {
    /// The folder of one allocation: its script, its log, and the number of its job.
    pub fn folder_of(&self, allocation: &AllocationId) -> PathBuf {
        self.folder.join(allocation.as_str())
    }

    pub fn script_of(&self, allocation: &AllocationId) -> PathBuf {
        self.folder_of(allocation).join("script")
    }

    /// The output of the job: the worker's log, and what the shell printed before it.
    pub fn log_of(&self, allocation: &AllocationId) -> PathBuf {
        self.folder_of(allocation).join("log")
    }

    /// Returns every option of sbatch, one word each. The same are in the script: there they can be
    /// read, and on the command line no variable of the user (`SBATCH_...`) changes them. The nodes to
    /// `avoid` come before the user's options: an `--exclude` among those takes their place.
    pub fn all_options(&self, allocation: &AllocationId, avoid: &[String]) -> Vec<String> {
        let signal = format!("--signal=B:USR1@{}", self.notice.as_secs());
        let avoid = (!avoid.is_empty()).then(|| format!("--exclude={}", avoid.join(",")));
        let given = self.options.iter().chain(&self.user_options).cloned();
        let own = self.own_options(allocation).into_iter();
        own.chain([signal]).chain(avoid).chain(given).collect()
    }

    /// The options that the user does not choose.
    pub(crate) fn own_options(&self, allocation: &AllocationId) -> Vec<String> {
        [
            format!("--job-name={allocation}"),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            // The coordinator replaces what is lost, by an allocation of its own.
            "--no-requeue".to_owned(),
            "--open-mode=append".to_owned(),
            // `%` would begin one of Slurm's placeholders
            format!(
                "--output={}",
                shown(&self.log_of(allocation)).replace('%', "%%")
            ),
            format!("--chdir={}", shown(&self.folder_of(allocation))),
        ]
        .into()
    }

    pub fn text(&self, allocation: &AllocationId, avoid: &[String]) -> String {
        let mut text = "#!/bin/bash\n".to_owned();
        text += &directives(&self.all_options(allocation, avoid));
        // A core file of a trainer is as large as its memory.
        text += "ulimit -c 0\n";
        if let Some(prologue) = &self.prologue {
            text += prologue;
            if !prologue.ends_with('\n') {
                text += "\n";
            }
        }
        text += "exec ";
        if let Some(wrap) = &self.wrap {
            text += wrap;
            text += " ";
        }
        let name = ["--allocation".to_owned(), allocation.to_string()];
        let words = self.worker.iter().chain(&name).map(|word| quoted(word));
        text + &words.collect::<Vec<_>>().join(" ") + "\n"
    }
}

/// Returns the lines of a script that hold options of sbatch.
pub(crate) fn directives(options: &[String]) -> String {
    let lines = lines_of_options(options).into_iter();
    lines.map(|line| format!("#SBATCH {line}\n")).collect()
}

/// Puts options into lines: a word that begins with `-` begins a line, its values follow it.
fn lines_of_options(words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if !word.starts_with('-') => *line += &format!(" {}", in_directive(word)),
            _ => lines.push(in_directive(word)),
        }
    }
    lines
}

/// Quotes a word for a line of `#SBATCH`, where Slurm reads quotes and backslashes itself.
fn in_directive(word: &str) -> String {
    if word.chars().all(|letter| !" \t\"'\\#".contains(letter)) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Quotes a word for the shell.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@+,=%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
