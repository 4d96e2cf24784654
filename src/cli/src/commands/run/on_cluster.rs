//! `orchestrator run --launch`: the coordinator is here, the workers come from a cluster while there
//! is work, and everything that was asked for is given back at the end.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::time::Duration;

use schedule::allocation::{AllocationStatus, ClusterStatus, PauseCause, QueueSpec, QueueStatus};
use sweep::counted;
use tokio::time::{Instant, sleep};

use super::{Followed, HOW_TO_INSIST, Run, SUBMIT_TIMEOUT, Workers};
use crate::client::Client;
use crate::commands::follow_sweep::{Follower, submit};
use crate::commands::serve::Embedded;
use crate::exit::{ExpectedError, Outcome};
use crate::launch_args::How;
use crate::launching::{self, Launching, Reach};
use crate::output;
use crate::results_folder::ResultsFolder;
use crate::signals::Signals;
use crate::{advice, rendezvous, stderr};

/// Interval between two looks at the cluster's state.
const LOOK: Duration = Duration::from_secs(2);
/// Time after which hosts over ssh that have no worker are listed.
const HOSTS_ARE_THERE: Duration = Duration::from_secs(60);
/// Time for jobs to end once they were given back.
const GIVE_BACK: Duration = Duration::from_secs(90);

impl Run<'_> {
    /// Prints the script of a job, for `--dry-run`.
    pub(super) fn print_script(&self) -> Result<Outcome, ExpectedError> {
        let launching = self.launching()?;
        if self.arguments.coordinator_job.is_some() {
            self.print_coordinator_script()?;
        }
        let script = launching.script(&format!("orch-{}-RANDOM-1", self.sweep.name));
        output::write(script.as_bytes()).map(|_| Outcome::Complete)
    }

    pub(super) async fn on_cluster(&self, signals: &mut Signals) -> Result<Outcome, ExpectedError> {
        ResultsFolder::new(&self.arguments.results, &self.sweep.name).prepare()?;
        let state_dir = &self.arguments.target.state_dir;
        // once: a prologue may come through a pipe
        let launching = self.launching()?;
        launching.test().await?;
        let ip = self.advertised_ip()?;
        let advertise = self.arguments.launch.advertise.clone();
        let advertise = advertise.unwrap_or_else(|| ip.to_string());
        let mut embedded =
            Embedded::on_network(state_dir, &ip, &advertise, &self.arguments.launch).await?;
        embedded.notify(self.arguments.notify.notify()).await;
        embedded.serve_page(&self.arguments.http).await?;
        let launching = launching.listening_at(embedded.port);
        let (mut client, reply) =
            submit(&embedded.access, self.submission(), SUBMIT_TIMEOUT).await?;
        self.print_submission(&reply);
        self.discard_results(&mut client, &reply.sweep).await?;
        self.print_unfinished(&client.status(None).await?, &reply.sweep);
        let hosts = launching.hosts();
        embedded.launch(&reply.sweep, launching).await?;
        let (mut cluster, mut hosts_seen) = (client.clone(), client.clone());
        let mut view = self.view(&client, &reply.sweep, Workers::Launched);
        let mut writer = self.writer(&client, &reply.sweep)?;
        let mut follower = Follower::new(client, &reply.sweep, false);
        let followed = tokio::select! {
            followed = self.follow(&mut follower, &mut writer, &mut view, Workers::Launched) => followed,
            error = embedded.failed() => Err(error),
            error = hopeless(&mut cluster) => Err(error),
            never = print_hosts(&mut hosts_seen, &hosts) => match never {},
            signal = signals.next() => Ok(Followed::Interrupted(signal)),
        };
        view.finish();
        let (reason, interrupted) = match &followed {
            Ok(Followed::Interrupted(signal)) => {
                stderr::print(&format!(
                    "{signal}: workers write checkpoints and leave; {HOW_TO_INSIST}"
                ));
                (format!("its run received {signal}"), Some(*signal))
            }
            Ok(Followed::Complete | Followed::Stuck(_)) => ("the sweep ends here".to_owned(), None),
            Err(_) => ("its run has failed".to_owned(), None),
        };
        let given_back = tokio::select! {
            given_back = give_back(&mut cluster, &reason) => given_back,
            _ = signals.next() => {
                stderr::print("stopping at once");
                Ok(())
            }
        };
        let outcome = match followed {
            Err(error) => Err(error),
            Ok(Followed::Stuck(because)) => {
                let _ = writer.finish(&mut follower).await;
                Err(ExpectedError::Infrastructure {
                    what: "the sweep cannot continue",
                    reason: advice::complete(&because, &self.arguments.target, None),
                })
            }
            Ok(Followed::Complete | Followed::Interrupted(_)) => {
                let last = writer.last_report(&mut follower).await;
                self.conclude(&writer, last, interrupted)
            }
        };
        let ended = embedded.shutdown().await;
        outcome.and_then(|outcome| given_back.and(ended).map(|()| outcome))
    }

    /// Prints where the workers of another command's coordinator come from, if this command asks for
    /// others.
    pub(super) async fn print_workers_in_force(
        &self,
        client: &mut Client,
    ) -> Result<(), ExpectedError> {
        if self.arguments.launch.launch.is_none() {
            return Ok(());
        }
        let asked = self.launching()?.spec;
        let status = client.cluster_status().await?;
        if let Some(note) = other_workers(status.queue.as_ref(), &asked) {
            stderr::print(&note);
        }
        Ok(())
    }

    pub(super) fn launching(&self) -> Result<Launching, ExpectedError> {
        let arguments = &self.arguments.launch;
        let devices = self.devices();
        let state_dir = &self.arguments.target.state_dir;
        let reach = Reach {
            state_dir,
            port: 0,
            // Hosts over ssh reach it through loopback alone.
            is_encrypted: false,
            token_file: &rendezvous::token_file(state_dir),
        };
        Launching::new(arguments, &devices, &self.arguments.data, &reach)
    }

    /// The address that decides whether other machines may connect.
    fn advertised_ip(&self) -> Result<IpAddr, ExpectedError> {
        let arguments = &self.arguments.launch;
        if let Some(How::Ssh(_)) = arguments.launch {
            // Hosts reach it through their tunnels.
            return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let Some(host) = &arguments.advertise else {
            return launching::own_address();
        };
        let mut found = (host.as_str(), 0)
            .to_socket_addrs()
            .map_err(|error| ExpectedError::BadInput(format!("--advertise {host}: {error}")))?;
        let first = found.next().map(|address| address.ip());
        first.ok_or_else(|| ExpectedError::BadInput(format!("--advertise {host} has no address")))
    }
}

/// Returns a sentence about the workers of a coordinator whose queue is not the one that was asked
/// for.
fn other_workers(queue: Option<&QueueStatus>, asked: &QueueSpec) -> Option<String> {
    let shown = |launcher: &str, request: &str, nodes: u32| {
        let ask = format!("{launcher} {request}");
        format!("`{}`, at most {nodes} at a time", ask.trim_end())
    };
    let asked = shown(&asked.launcher, &asked.request, asked.max_allocations);
    let Some(queue) = queue else {
        return Some(format!(
            "this coordinator launches no workers; this command's {asked}, is not used"
        ));
    };
    let in_force = shown(&queue.launcher, &queue.request, queue.max_allocations);
    (in_force != asked).then(|| {
        format!(
            "the workers of this coordinator are {in_force}; this command's {asked}, are not used before it has ended"
        )
    })
}

/// Waits until the queue is paused for a reason that waiting does not end, and no allocation is left
/// that could work.
async fn hopeless(client: &mut Client) -> ExpectedError {
    loop {
        sleep(LOOK).await;
        // A coordinator that is gone is noticed elsewhere.
        let Ok(status) = client.cluster_status().await else {
            continue;
        };
        if let Some(reason) = refusal(&status) {
            return ExpectedError::Infrastructure {
                what: "no workers can be launched",
                reason,
            };
        }
    }
}

/// Prints, once, which hosts over ssh have a worker by then and why the others have none.
async fn print_hosts(client: &mut Client, hosts: &[String]) -> std::convert::Infallible {
    sleep(HOSTS_ARE_THERE).await;
    if let Ok(status) = client.cluster_status().await {
        for line in lines_of_hosts(&status, hosts) {
            stderr::print(&line);
        }
    }
    std::future::pending().await
}

/// Returns a line for each host; none if all have a worker.
fn lines_of_hosts(status: &ClusterStatus, hosts: &[String]) -> Vec<String> {
    let entry = |host: &str| {
        // those that have not ended come first, then the newest
        let mut of_host = status.allocations.iter();
        of_host.find(|entry| entry.job.as_deref() == Some(host))
    };
    let has_worker = |host: &String| entry(host).is_some_and(|entry| entry.worker.is_some());
    if hosts.iter().all(has_worker) {
        return Vec::new();
    }
    let line = |host: &String| match entry(host) {
        Some(AllocationStatus {
            worker: Some(_), ..
        }) => format!("{host}: connected"),
        Some(AllocationStatus { state, reason, .. }) => {
            format!("{host}: {}", reason.as_ref().unwrap_or(state))
        }
        None => format!("{host}: not asked yet, since no trial waits for it"),
    };
    hosts.iter().map(line).collect()
}

fn refusal(status: &ClusterStatus) -> Option<String> {
    let queue = status.queue.as_ref()?;
    let way_on = match queue.paused? {
        PauseCause::Refused | PauseCause::NeverStarts => "ask for something else",
        PauseCause::Strikes => "after fixing the cause, the same command asks again",
        // The wish of a person, who can end the pause as well.
        PauseCause::CancelledByOthers | PauseCause::Stopped => return None,
    };
    let may_work = |entry: &AllocationStatus| {
        ["submitted", "pending", "running"].contains(&entry.state.as_str())
    };
    let reason = queue.reason.as_deref().unwrap_or_default();
    let is_over = !status.allocations.iter().any(may_work);
    is_over.then(|| format!("{reason}\n{way_on}"))
}

/// Gives every allocation back and waits until none is left.
async fn give_back(client: &mut Client, reason: &str) -> Result<(), ExpectedError> {
    client.stop_cluster(reason).await?;
    let deadline = Instant::now() + GIVE_BACK;
    let mut is_printed = false;
    loop {
        let status = client.cluster_status().await?;
        let open = status.num_open();
        if open == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let is_ssh = status
                .queue
                .as_ref()
                .is_some_and(|queue| queue.launcher == "ssh");
            return Err(ExpectedError::Infrastructure {
                what: "the cluster still has jobs of this run",
                reason: way_out(&status.allocations, is_ssh),
            });
        }
        if !std::mem::replace(&mut is_printed, true) {
            let open = counted(open as u64, "allocation");
            stderr::print(&format!("giving back {open} of the cluster"));
        }
        sleep(LOOK).await;
    }
}

/// Returns what a user can do about allocations that did not end. Jobs are named by their numbers:
/// `scancel --name` with several names cancels none of them in Slurm 22.05.
fn way_out(allocations: &[AllocationStatus], is_ssh: bool) -> String {
    let open: Vec<&AllocationStatus> = allocations
        .iter()
        .filter(|entry| entry.state != "ended")
        .collect();
    if is_ssh {
        let names: Vec<&str> = open.iter().map(|entry| &*entry.allocation).collect();
        return format!(
            "{} did not end; with this process their connections end",
            names.join(", ")
        );
    }
    let jobs: Vec<&str> = open
        .iter()
        .filter_map(|entry| entry.job.as_deref())
        .collect();
    let unknown: Vec<&str> = open
        .iter()
        .filter(|entry| entry.job.is_none())
        .map(|entry| &*entry.allocation)
        .collect();
    let mut advice = Vec::new();
    if !jobs.is_empty() {
        advice.push(format!("end them with: scancel {}", jobs.join(" ")));
    }
    if !unknown.is_empty() {
        advice.push(format!(
            "Slurm did not report a job for {}: look for these names in `squeue --me`",
            unknown.join(", ")
        ));
    }
    advice.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32, job: Option<&str>, state: &str) -> AllocationStatus {
        AllocationStatus {
            allocation: format!("orch-job-{number}"),
            job: job.map(str::to_owned),
            state: state.to_owned(),
            reason: None,
            node: None,
            worker: None,
            time_left_ms: None,
            since_ms: 0,
            log: String::new(),
        }
    }

    #[test]
    fn every_host_without_a_worker_has_its_reason() {
        let connected = AllocationStatus {
            worker: Some("node1-7".to_owned()),
            ..entry(1, Some("node1"), "running")
        };
        let refused = AllocationStatus {
            reason: Some("it failed: cannot be used: no trainer".to_owned()),
            ..entry(2, Some("node2"), "ended")
        };
        let status = ClusterStatus {
            queue: None,
            allocations: vec![connected, refused],
        };
        let hosts = ["node1", "node2", "node3"].map(str::to_owned);
        assert_eq!(
            lines_of_hosts(&status, &hosts),
            [
                "node1: connected",
                "node2: it failed: cannot be used: no trainer",
                "node3: not asked yet, since no trial waits for it",
            ]
        );
        assert!(lines_of_hosts(&status, &hosts[..1]).is_empty());
        assert!(lines_of_hosts(&status, &[]).is_empty(), "Slurm");
    }

    #[test]
    fn a_coordinator_with_other_workers_is_noticed() {
        let asked = QueueSpec {
            launcher: "slurm".to_owned(),
            request: "--time=10 --partition=gpu".into(),
            folder: "/state/allocations".to_owned(),
            max_allocations: 4,
            time_limit_ms: Some(600_000),
            notice_ms: 120_000,
        };
        let mut queue = QueueStatus {
            name: "orch-job-7f3a9c1e".to_owned(),
            launcher: "slurm".to_owned(),
            request: asked.request.to_string(),
            max_allocations: 4,
            wanted: 1,
            paused: None,
            reason: None,
            delayed_until_ms: None,
            error: None,
            avoided: Vec::new(),
        };
        assert_eq!(other_workers(Some(&queue), &asked), None);
        queue.max_allocations = 2;
        assert_eq!(
            other_workers(Some(&queue), &asked).unwrap(),
            "the workers of this coordinator are `slurm --time=10 --partition=gpu`, at most 2 at a time; this command's \
             `slurm --time=10 --partition=gpu`, at most 4 at a time, are not used before it has ended"
        );
        assert!(
            other_workers(None, &asked)
                .unwrap()
                .starts_with("this coordinator launches no workers"),
        );
    }

    #[test]
    fn jobs_that_stay_are_named_by_their_numbers() {
        let all = [
            entry(1, Some("17"), "ended"),
            entry(2, Some("18"), "running"),
            entry(3, Some("19"), "pending"),
            entry(4, None, "intended"),
        ];
        assert_eq!(
            way_out(&all, false),
            "end them with: scancel 18 19; Slurm did not report a job for orch-job-4: look for these names in `squeue --me`"
        );
        assert_eq!(
            way_out(&all[1..2], true),
            "orch-job-2 did not end; with this process their connections end"
        );
    }
}
