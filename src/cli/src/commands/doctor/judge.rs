//! The meaning of the facts about a machine: pure, a line for each, with what to do about it.

use std::time::Duration;

use sweep::counted;

use super::facts::{Coordinator, Cpu, DataSets, Facts, Folder, Gpus, Journal, Trainer, Written};
use super::{Finding, error, ok, warning};

/// File systems over a network, whose journal is slower and whose locks depend on the server.
const NETWORK: [&str; 16] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "lustre",
    "gpfs",
    "ceph",
    "beegfs",
    "beegfs_nodev",
    "afs",
    "9p",
    "gfs2",
    "ocfs2",
    "panfs",
    "orangefs",
    "pvfs2",
];
/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Free space below which training soon stops, and below which it is worth a look.
const NO_ROOM: u64 = 64 << 20;
const LITTLE_ROOM: u64 = 1 << 30;
/// No file or inode is free.
const NO_FILES: u64 = 0;
/// Every transaction of the journal waits for a sync.
const SLOW_SYNC: Duration = Duration::from_millis(500);
/// A disk that syncs a megabyte sooner has not written it.
const UNBELIEVABLE_SYNC: Duration = Duration::from_micros(50);
const LITTLE_MEMORY: u64 = 2 << 30;
/// 2024-01-01 and 2100-01-01, in milliseconds since 1970.
const SANE_YEARS: std::ops::Range<u64> = 1_704_067_200_000..4_102_444_800_000;
/// Difference of two clocks at which times in logs mislead, and at which work directories are no
/// longer tidied up.
const APART_MS: u64 = 60_000;
const FAR_APART_MS: u64 = 24 * 3_600_000;

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![cpu(&facts.cpu), memory(facts.memory)];
    findings.extend(gpus(&facts.gpus));
    findings.extend(trainer(&facts.trainer, &facts.gpus));
    findings.extend(facts.folders.iter().map(folder));
    findings.push(clock(facts.now_ms, &facts.coordinator));
    findings.extend(facts.ports.iter().map(|port| match (&port.error, port.name) {
        (None, name) => ok("ports", format!("listening works on {name}")),
        (Some(reason), "loopback") => error(
            "ports",
            format!("listening does not work on loopback: {reason}"),
            "`run` and every coordinator listen there: check the network of this machine or container",
        ),
        (Some(reason), name) => warning(
            "ports",
            format!("listening does not work on {name}: {reason}"),
            "no coordinator for other machines can run here",
        ),
    }));
    findings.push(proxies(&facts.proxies));
    findings.push(data_sets(&facts.data_sets, &facts.folders));
    findings.push(journal(&facts.journal));
    findings.push(coordinator(&facts.coordinator, &facts.build));
    findings
}

fn cpu(cpu: &Cpu) -> Finding {
    let Cpu {
        name,
        threads,
        online,
        affinity,
        quota,
    } = cpu;
    let mut text = format!("{} of {name}", counted(*threads as u64, "thread"));
    if threads < online {
        text.push_str(&format!("; the machine has {online}"));
        if let Some(list) = affinity {
            text.push_str(&format!(", this process may use {list}"));
        }
        if let Some(quota) = quota {
            text.push_str(&format!(", its cgroup allows {quota:.1} on average"));
        }
    }
    match quota {
        Some(quota) if *quota < 1.0 => warning(
            "CPU",
            text,
            "trainers are stopped for a part of each moment: ask for a whole CPU or more",
        ),
        _ => ok("CPU", text),
    }
}

fn memory(bytes: Option<u64>) -> Finding {
    match bytes {
        None => ok("memory", "not known: /proc/meminfo cannot be read"),
        Some(bytes) if bytes < LITTLE_MEMORY => warning(
            "memory",
            gib(bytes),
            "a trainer takes about a gigabyte: start fewer with --slots",
        ),
        Some(bytes) => ok("memory", gib(bytes)),
    }
}

fn gpus(gpus: &Gpus) -> Vec<Finding> {
    match gpus {
        Gpus::Wrong(reason) => vec![error(
            "GPUs",
            reason,
            "check that `nvidia-smi` lists them here, or train with --devices cpu",
        )],
        Gpus::None(reason) => vec![ok("GPUs", format!("none: {reason}"))],
        Gpus::Found(gpus) => gpus.iter().map(|gpu| ok("GPU", gpu)).collect(),
    }
}

fn trainer(trainer: &Trainer, gpus: &Gpus) -> Vec<Finding> {
    let lines = match trainer {
        Trainer::Absent(reason) => {
            return vec![warning(
                "trainer",
                reason,
                "without it this machine can submit sweeps, and not train",
            )];
        }
        Trainer::Broken { path, reason } => {
            return vec![error(
                "trainer",
                format!("{} does not start: {reason}", path.display()),
                "it needs the libtorch of its build: check that it is there, and that no LD_LIBRARY_PATH leads to another",
            )];
        }
        Trainer::Starts(lines) => lines,
    };
    let libtorch = lines.iter().find(|line| line.starts_with("libtorch"));
    let libtorch = libtorch.map_or("it starts", String::as_str);
    let mut findings = vec![ok("trainer", libtorch)];
    let sees_gpus = lines.iter().any(|line| line.starts_with("cuda:"));
    if let (Gpus::Found(gpus), false) = (gpus, sees_gpus) {
        findings.push(error(
            "libtorch",
            format!("it uses none of {}", counted(gpus.len() as u64, "GPU")),
            "this libtorch has no CUDA, or a newer one than the driver: install the libtorch for GPUs, or a newer driver",
        ));
    }
    findings.extend(lines.iter().filter_map(|line| {
        let nccl = line.strip_prefix("NCCL ")?;
        Some(match nccl.strip_prefix("cannot be used: ") {
            None => ok("NCCL", nccl),
            Some(reason) => warning(
                "NCCL",
                reason,
                "trials on several GPUs need it; trials on one GPU do not",
            ),
        })
    }));
    findings
}

fn folder(folder: &Folder) -> Finding {
    let Folder {
        name, path, kind, ..
    } = folder;
    let mut text = format!("{} on {kind}", path.display());
    if !folder.exists {
        text.push_str(", not there yet");
    }
    if let Some(bytes) = folder.free_bytes {
        text.push_str(&format!(", {} free", gib(bytes)));
    }
    let written = match &folder.written {
        None => return ok(name, text),
        Some(Err(reason)) => {
            let remedy = format!("choose another with {}", flag(name));
            return error(
                name,
                format!("{text}; it cannot be written: {reason}"),
                remedy,
            );
        }
        Some(Ok(written)) => written,
    };
    let Written { sync, locks } = written;
    text.push_str(&format!(
        ", 1 MiB synced in {:.1} ms",
        sync.as_secs_f64() * 1e3
    ));
    let is_state = *name == "state";
    if folder.free_bytes.is_some_and(|bytes| bytes < NO_ROOM) || folder.free_files == Some(NO_FILES)
    {
        let room = match folder.free_files {
            Some(NO_FILES) => "; no more files can be made",
            _ => "",
        };
        let remedy = format!("make room, or choose another with {}", flag(name));
        return error(name, text + room, remedy);
    }
    if !locks && matches!(*name, "state" | "work" | "cache") {
        let remedy = format!(
            "locks have no effect there: choose a file system with locks for {}",
            flag(name)
        );
        return error(name, text, remedy);
    }
    if is_state && IN_MEMORY.contains(&kind.as_str()) {
        return warning(
            name,
            text,
            "this is memory: a reboot loses the journal. Choose a disk with --state-dir",
        );
    }
    if is_state && (NETWORK.contains(&kind.as_str()) || kind.starts_with("fuse")) {
        return warning(
            name,
            text,
            "a network file system: the journal uses its slower mode. A local disk is better for --state-dir",
        );
    }
    if is_state && *sync > SLOW_SYNC {
        return warning(
            name,
            text,
            "every acknowledgement waits for a sync: a faster disk for --state-dir helps",
        );
    }
    if is_state && *sync < UNBELIEVABLE_SYNC {
        return warning(
            name,
            text,
            "no disk is that fast: what was acknowledged may be lost when the power fails. Choose a disk that syncs",
        );
    }
    if *name == "cache" && NETWORK.contains(&kind.as_str()) {
        return warning(
            name,
            text,
            "decoded images are read in every epoch: a local disk is faster for --cache-dir",
        );
    }
    if folder.free_bytes.is_some_and(|bytes| bytes < LITTLE_ROOM) {
        return warning(name, text, "little room is left");
    }
    ok(name, text)
}

fn flag(name: &str) -> String {
    match name {
        "results" => "--results".to_owned(),
        name => format!("--{name}-dir"),
    }
}

fn clock(now_ms: u64, coordinator: &Coordinator) -> Finding {
    let days = now_ms / (24 * 3_600_000);
    let text = format!("{days} days since 1970");
    if !SANE_YEARS.contains(&now_ms) {
        return error(
            "clock",
            text,
            "the year is wrong: set the clock of this machine",
        );
    }
    let &Coordinator::Answers { now_ms: there, .. } = coordinator else {
        return ok(
            "clock",
            "the year is right; there is no coordinator to compare with",
        );
    };
    // A coordinator of an earlier version does not send its time.
    if there == 0 {
        return ok(
            "clock",
            "the year is right; the coordinator does not report its time",
        );
    }
    let apart = now_ms.abs_diff(there);
    let text = format!("{:.1} s from the coordinator's", apart as f64 / 1e3);
    let remedy = "times in logs do not agree: let both machines follow one time server";
    match apart {
        FAR_APART_MS.. => error("clock", text, remedy),
        APART_MS.. => warning("clock", text, remedy),
        _ => ok("clock", text),
    }
}

fn proxies(names: &[String]) -> Finding {
    match names {
        [] => ok("proxies", "none is set"),
        names => ok(
            "proxies",
            format!(
                "{}: downloads use them, connections to a coordinator do not",
                names.join(", ")
            ),
        ),
    }
}

fn data_sets(sets: &DataSets, folders: &[Folder]) -> Finding {
    let ready = sets.ready.join(", ");
    if let Some((name, reason)) = sets.broken.first() {
        let others = match sets.broken.len() {
            1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        let remedy = format!("`orchestrator data check {name}` lists what is wrong");
        return warning(
            "data sets",
            format!("{ready}; {name} cannot be used: {reason}{others}"),
            remedy,
        );
    }
    let exists = folders
        .iter()
        .any(|folder| folder.name == "data" && folder.exists);
    match exists {
        true => ok("data sets", ready),
        false => ok(
            "data sets",
            format!(
                "{ready}; there is no {}, --data-dir names another",
                sets.folder.display()
            ),
        ),
    }
}

fn journal(journal: &Journal) -> Finding {
    match journal {
        Journal::Absent => ok("journal", "none yet in the state directory"),
        Journal::Sound {
            events,
            bytes,
            sweeps,
            trials,
        } => ok(
            "journal",
            format!(
                "sound: {}, {bytes} bytes, {}, {}",
                counted(*events, "event"),
                counted(*sweeps as u64, "sweep"),
                counted(*trials as u64, "trial")
            ),
        ),
        Journal::Damaged(reason) => error(
            "journal",
            reason,
            "put a copy of the state directory back, or look at what `orchestrator journal repair` would keep",
        ),
    }
}

fn coordinator(coordinator: &Coordinator, own: &str) -> Finding {
    match coordinator {
        Coordinator::None => ok(
            "coordinator",
            "none is named, and none runs on the state directory",
        ),
        Coordinator::Unreachable { address, reason } => error(
            "coordinator",
            format!("{address}: {reason}"),
            "check that it runs, that this machine reaches its port, and that --token-file is its own",
        ),
        Coordinator::Answers { address, build, .. } if build != own => error(
            "coordinator",
            format!("{address} is of build {build}, this command of build {own}"),
            "install the same build everywhere",
        ),
        Coordinator::Answers {
            address,
            storage_fault,
            ..
        } if !storage_fault.is_empty() => error(
            "coordinator",
            format!("{address} cannot write its journal: {storage_fault}"),
            "it continues by itself when that is fixed",
        ),
        Coordinator::Answers { address, build, .. } => {
            ok("coordinator", format!("{address} answers, build {build}"))
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::facts::Port;
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    /// A machine on which everything works.
    fn sound() -> Facts {
        let folder = |name| Folder {
            name,
            path: format!("/x/{name}").into(),
            exists: true,
            kind: "ext4".into(),
            free_bytes: Some(100 << 30),
            free_files: Some(1_000_000),
            written: (name != "data").then_some(Ok(Written {
                sync: Duration::from_millis(3),
                locks: true,
            })),
        };
        Facts {
            cpu: Cpu {
                name: "a CPU".into(),
                threads: 4,
                online: 4,
                affinity: Some("0-3".into()),
                quota: None,
            },
            memory: Some(16 << 30),
            gpus: Gpus::Found(vec!["a GPU".into()]),
            trainer: Trainer::Starts(
                [
                    "libtorch 2.11.0",
                    "cpu: a CPU, 4 threads",
                    "cuda:0: a GPU",
                    "NCCL 2.28.3",
                ]
                .map(str::to_owned)
                .into(),
            ),
            folders: ["state", "work", "cache", "results", "data"]
                .map(folder)
                .into(),
            now_ms: NOW,
            ports: ["loopback", "any network"]
                .map(|name| Port { name, error: None })
                .into(),
            proxies: Vec::new(),
            data_sets: DataSets {
                folder: "/x/data".into(),
                ready: vec!["digits"],
                broken: Vec::new(),
            },
            journal: Journal::Absent,
            coordinator: answers("b1", NOW + 200, ""),
            build: "b1".into(),
        }
    }

    fn answers(build: &str, now_ms: u64, fault: &str) -> Coordinator {
        Coordinator::Answers {
            address: "http://c:7400".into(),
            build: build.into(),
            now_ms,
            storage_fault: fault.into(),
        }
    }

    #[test]
    fn a_sound_machine_has_nothing_but_ok() {
        let findings = judge(&sound());
        assert!(
            findings.iter().all(|finding| finding.level == Level::Ok),
            "{findings:#?}"
        );
        let names: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
        let expected = "CPU memory GPU trainer NCCL state work cache results data clock ports ports proxies data sets \
                        journal coordinator";
        assert_eq!(names.join(" "), expected);
    }

    type Change = fn(&mut Facts);

    fn state(facts: &mut Facts) -> &mut Folder {
        &mut facts.folders[0]
    }

    fn written(folder: &mut Folder, sync: Duration, locks: bool) {
        folder.written = Some(Ok(Written { sync, locks }));
    }

    /// Each change of a sound machine changes one line: its name, its level, and a part of it.
    #[test]
    fn each_fault_has_its_line_and_a_remedy() {
        let changes: &[(Level, &str, &str, Change)] = &[
            (Level::Warning, "CPU", "its cgroup allows 0.5", |facts| {
                (facts.cpu.threads, facts.cpu.quota) = (1, Some(0.5));
            }),
            (Level::Ok, "CPU", "this process may use 0-1", |facts| {
                (facts.cpu.threads, facts.cpu.affinity) = (2, Some("0-1".into()));
            }),
            (Level::Warning, "memory", "--slots", |facts| {
                facts.memory = Some(1 << 30)
            }),
            (Level::Ok, "memory", "not known", |facts| {
                facts.memory = None
            }),
            (Level::Error, "GPUs", "promises 2", |facts| {
                facts.gpus = Gpus::Wrong("X promises 2".into());
            }),
            (Level::Ok, "GPUs", "none: no driver", |facts| {
                facts.gpus = Gpus::None("no driver".into());
            }),
            (Level::Warning, "trainer", "can submit sweeps", |facts| {
                facts.trainer = Trainer::Absent("none was found".into());
            }),
            (Level::Error, "trainer", "libtorch of its build", |facts| {
                let path = "/x/t".into();
                facts.trainer = Trainer::Broken {
                    path,
                    reason: "no libtorch.so".into(),
                };
            }),
            (Level::Error, "libtorch", "it uses none of 1 GPU", |facts| {
                facts.trainer = Trainer::Starts(vec!["libtorch 2.11.0".into()]);
            }),
            (Level::Warning, "NCCL", "not found", |facts| {
                let lines = [
                    "libtorch 2.11.0",
                    "cuda:0: a GPU",
                    "NCCL cannot be used: not found",
                ];
                facts.trainer = Trainer::Starts(lines.map(str::to_owned).into());
            }),
            (
                Level::Error,
                "state",
                "choose another with --state-dir",
                |facts| {
                    state(facts).written = Some(Err("read-only".into()));
                },
            ),
            (Level::Error, "results", "with --results", |facts| {
                facts.folders[3].written = Some(Err("read-only".into()));
            }),
            (Level::Error, "work", "make room", |facts| {
                facts.folders[1].free_bytes = Some(1 << 20)
            }),
            (Level::Warning, "work", "little room", |facts| {
                facts.folders[1].free_bytes = Some(1 << 29)
            }),
            (Level::Error, "cache", "no more files", |facts| {
                facts.folders[2].free_files = Some(0)
            }),
            (Level::Error, "state", "locks have no effect", |facts| {
                written(state(facts), Duration::from_millis(3), false);
            }),
            (Level::Ok, "results", "synced in 3.0 ms", |facts| {
                written(&mut facts.folders[3], Duration::from_millis(3), false);
            }),
            (Level::Warning, "state", "a reboot loses", |facts| {
                state(facts).kind = "tmpfs".into()
            }),
            (Level::Warning, "state", "slower mode", |facts| {
                state(facts).kind = "nfs4".into()
            }),
            (Level::Warning, "state", "slower mode", |facts| {
                state(facts).kind = "fuse.sshfs".into()
            }),
            (Level::Ok, "work", "on nfs4", |facts| {
                facts.folders[1].kind = "nfs4".into()
            }),
            (Level::Warning, "cache", "every epoch", |facts| {
                facts.folders[2].kind = "lustre".into()
            }),
            (Level::Warning, "state", "faster disk", |facts| {
                written(state(facts), Duration::from_secs(2), true);
            }),
            (Level::Warning, "state", "a disk that syncs", |facts| {
                written(state(facts), Duration::from_micros(2), true);
            }),
            (Level::Ok, "state", "not there yet", |facts| {
                state(facts).exists = false
            }),
            (Level::Error, "clock", "the year is wrong", |facts| {
                facts.now_ms = 5_000_000
            }),
            (Level::Warning, "clock", "120.0 s from", |facts| {
                facts.coordinator = answers("b1", NOW - 120_000, "");
            }),
            (Level::Error, "clock", "one time server", |facts| {
                facts.coordinator = answers("b1", NOW + 100_000_000, "");
            }),
            (Level::Ok, "clock", "does not report its time", |facts| {
                facts.coordinator = answers("b1", 0, "");
            }),
            (Level::Error, "ports", "loopback: refused", |facts| {
                facts.ports[0].error = Some("refused".into());
            }),
            (Level::Warning, "ports", "any network: refused", |facts| {
                facts.ports[1].error = Some("refused".into());
            }),
            (Level::Ok, "proxies", "HTTPS_PROXY: downloads", |facts| {
                facts.proxies = vec!["HTTPS_PROXY".into()];
            }),
            (
                Level::Warning,
                "data sets",
                "orchestrator data check cub",
                |facts| {
                    facts.data_sets.broken = vec![("cub", "a list is cut".into())];
                },
            ),
            (
                Level::Ok,
                "data sets",
                "--data-dir names another",
                |facts| {
                    facts.folders[4].exists = false;
                },
            ),
            (Level::Ok, "journal", "1 event", |facts| {
                facts.journal = Journal::Sound {
                    events: 1,
                    bytes: 9,
                    sweeps: 1,
                    trials: 2,
                };
            }),
            (
                Level::Error,
                "journal",
                "orchestrator journal repair",
                |facts| {
                    facts.journal = Journal::Damaged("event 7 is missing".into());
                },
            ),
            (
                Level::Error,
                "coordinator",
                "of build b2, this command of build b1",
                |facts| {
                    facts.coordinator = answers("b2", NOW, "");
                },
            ),
            (Level::Error, "coordinator", "disk full", |facts| {
                facts.coordinator = answers("b1", NOW, "disk full");
            }),
            (Level::Ok, "coordinator", "none is named", |facts| {
                facts.coordinator = Coordinator::None
            }),
            (Level::Error, "coordinator", "--token-file", |facts| {
                let (address, reason) = ("http://c:7400".into(), "refused".into());
                facts.coordinator = Coordinator::Unreachable { address, reason };
            }),
        ];
        for (level, name, part, change) in changes {
            let mut facts = sound();
            change(&mut facts);
            let findings = judge(&facts);
            let found = findings
                .iter()
                .find(|finding| finding.name == *name && finding.line().contains(part));
            let found = found.unwrap_or_else(|| panic!("{name}: {part}: {findings:#?}"));
            assert_eq!(found.level, *level, "{found:?}");
            assert_eq!(found.remedy.is_some(), *level != Level::Ok, "{found:?}");
            let worse = findings
                .iter()
                .filter(|finding| finding.level != Level::Ok)
                .count();
            assert_eq!(
                worse,
                usize::from(*level != Level::Ok),
                "{part}: {findings:#?}"
            );
        }
    }
}
