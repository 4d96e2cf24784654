//! An MLflow tracking server: a parent run for each sweep, a child run for each trial.
//!
//! A child belongs to the attempt in its tag. One that is still `RUNNING` was not sent completely,
//! and one of another attempt is out of date: both are deleted and created again.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::http::{self, Client, Repeat};
use crate::trial::{Trial, plain};
use crate::{Error, Exporter};

/// Limits of the server on one batch, and on keys and values.
const MAX_METRICS: usize = 1000;
const MAX_PARAMS: usize = 100;
const MAX_TAGS: usize = 100;
const MAX_ENTITIES: usize = 1000;
const MAX_KEY: usize = 250;
const MAX_PARAM: usize = 6000;
const MAX_TAG: usize = 5000;
/// Number of runs that one answer of a search holds.
const PAGE: usize = 1000;

/// Tags: the kind of a run (`sweep`, `trial`), and the sweep or trial it belongs to.
const KIND: &str = "orchestrator.kind";
const SWEEP: &str = "orchestrator.sweep";
const TRIAL: &str = "orchestrator.trial";
const ATTEMPT: &str = "orchestrator.attempt";
const PARENT: &str = "mlflow.parentRunId";

pub struct Server {
    client: Client,
    experiment: String,
    sweep: String,
    /// Runs that the server has; asked for with the first trial.
    known: Option<Known>,
    /// The end of the last trial, in milliseconds since 1970.
    last_end_ms: u64,
}

struct Known {
    experiment_id: String,
    parent: String,
    /// The runs of each trial.
    children: HashMap<String, Vec<Child>>,
}

struct Child {
    run_id: String,
    attempt: String,
    is_whole: bool,
}

impl Server {
    /// Takes token or user and password, and the experiment's name, from the variables that MLflow's
    /// own client reads.
    pub fn new(url: &str, sweep: &str) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let authorization = match variable("MLFLOW_TRACKING_TOKEN") {
            Some(token) => Some(format!("Bearer {token}")),
            None => variable("MLFLOW_TRACKING_USERNAME").map(|user| {
                let password = variable("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
                http::basic(&user, &password)
            }),
        };
        let experiment = variable("MLFLOW_EXPERIMENT_NAME");
        let base = format!("{}/api/2.0/mlflow", url.trim_end_matches('/'));
        Self {
            client: Client::new(&base, authorization),
            experiment: experiment.unwrap_or_else(|| "orchestrator".to_owned()),
            sweep: sweep.to_owned(),
            known: None,
            last_end_ms: 0,
        }
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        Ok(self.client.call(path, Some(body), Repeat::Safe)?)
    }

    fn learn(&self, first: &Trial) -> Result<Known, Error> {
        let experiment_id = self.experiment_id()?;
        let filter = format!(
            "tags.`{KIND}` = 'sweep' AND tags.`{SWEEP}` = '{}'",
            self.sweep.replace('\'', "")
        );
        let found = self.search(&experiment_id, &filter)?.into_iter().next();
        let parent = match found {
            Some(run) => run_id(&run)?,
            None => self.create_run(&parent(&experiment_id, &self.sweep, first.span_ms().0))?,
        };
        let mut children: HashMap<String, Vec<Child>> = HashMap::new();
        for run in self.search(&experiment_id, &format!("tags.`{PARENT}` = '{parent}'"))? {
            children.entry(tag(&run, TRIAL)).or_default().push(Child {
                run_id: run_id(&run)?,
                attempt: tag(&run, ATTEMPT),
                is_whole: run["info"]["status"] != "RUNNING",
            });
        }
        Ok(Known {
            experiment_id,
            parent,
            children,
        })
    }

    fn experiment_id(&self) -> Result<String, Error> {
        const BY_NAME: &str = "experiments/get-by-name";
        let query = format!(
            "{BY_NAME}?experiment_name={}",
            http::encoded(&self.experiment)
        );
        let found = match self.client.call(&query, None, Repeat::Safe) {
            Ok(answer) => answer["experiment"]["experiment_id"].clone(),
            Err(http::Error::Refused { status: 404, .. }) => {
                let body = json!({ "name": self.experiment });
                let made =
                    self.client
                        .call("experiments/create", Some(&body), Repeat::IfRefused)?;
                made["experiment_id"].clone()
            }
            Err(error) => return Err(error.into()),
        };
        text(&found, BY_NAME, "experiment_id")
    }

    /// Returns every run that a filter finds, page by page.
    fn search(&self, experiment_id: &str, filter: &str) -> Result<Vec<Value>, Error> {
        let (mut runs, mut page) = (Vec::new(), None);
        loop {
            let body = json!({
                "experiment_ids": [experiment_id],
                "filter": filter,
                "max_results": PAGE,
                "page_token": page,
            });
            let mut answer = self.post("runs/search", &body)?;
            if let Value::Array(found) = answer["runs"].take() {
                runs.extend(found);
            }
            match answer["next_page_token"].take() {
                Value::String(token) if !token.is_empty() => page = Some(token),
                _ => return Ok(runs),
            }
        }
    }

    /// Creates a run. If its answer is lost, the next export finds the run and replaces it.
    fn create_run(&self, body: &Value) -> Result<String, Error> {
        let answer = self
            .client
            .call("runs/create", Some(body), Repeat::IfRefused)?;
        run_id(&answer["run"])
    }

    fn end_run(&self, run_id: &str, status: &str, end_ms: u64) -> Result<(), Error> {
        let body = json!({ "run_id": run_id, "status": status, "end_time": end_ms });
        self.post("runs/update", &body).map(drop)
    }

    /// Sends a trial as a new run, and returns it.
    fn send(&self, trial: &Trial, known: &Known) -> Result<Child, Error> {
        let run_id = self.create_run(&child(trial, &known.experiment_id, &known.parent))?;
        for batch in batches(trial, &run_id) {
            self.post("runs/log-batch", &batch)?;
        }
        let status = match trial.failure {
            None => "FINISHED",
            Some(_) => "FAILED",
        };
        self.end_run(&run_id, status, trial.span_ms().1)?;
        Ok(Child {
            run_id,
            attempt: trial.attempt(),
            is_whole: true,
        })
    }

    /// Replaces the runs of a trial by one that has everything.
    fn replace(&self, trial: &Trial, known: &mut Known) -> Result<(), Error> {
        let attempt = trial.attempt();
        let of_trial = known.children.entry(trial.trial.clone()).or_default();
        let is_current = |child: &Child| child.is_whole && child.attempt == attempt;
        let keep = of_trial.iter().position(is_current);
        let stale = (0..of_trial.len())
            .rev()
            .filter(|index| Some(*index) != keep);
        for index in stale.collect::<Vec<_>>() {
            let body = json!({ "run_id": of_trial[index].run_id });
            self.post("runs/delete", &body)?;
            of_trial.remove(index);
        }
        if keep.is_none() {
            let sent = self.send(trial, known)?;
            known.children.insert(trial.trial.clone(), vec![sent]);
        }
        Ok(())
    }
}

impl Exporter for Server {
    fn trial(&mut self, trial: &Trial) -> Result<(), Error> {
        let mut known = match self.known.take() {
            Some(known) => known,
            None => self.learn(trial)?,
        };
        self.replace(trial, &mut known)?;
        // after an error, the runs of the server are listed again
        self.known = Some(known);
        self.last_end_ms = self.last_end_ms.max(trial.span_ms().1);
        Ok(())
    }

    fn finish(&mut self, complete: bool) -> Result<(), Error> {
        let Some(known) = self.known.as_ref() else {
            return Ok(());
        };
        match complete {
            true => self.end_run(&known.parent, "FINISHED", self.last_end_ms),
            false => {
                let body = json!({ "run_id": known.parent, "status": "RUNNING" });
                self.post("runs/update", &body).map(drop)
            }
        }
    }
}

fn text(value: &Value, path: &str, field: &str) -> Result<String, Error> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| {
        Error::Http(http::Error::Answer {
            url: path.to_owned(),
            message: format!("`{field}` is missing"),
        })
    })
}

fn run_id(run: &Value) -> Result<String, Error> {
    text(&run["info"]["run_id"], "runs", "run_id")
}

fn tag(run: &Value, name: &str) -> String {
    let tags = run["data"]["tags"].as_array().into_iter().flatten();
    let found = tags.into_iter().find(|tag| tag["key"] == name);
    found.map_or_else(String::new, |tag| plain(&tag["value"]))
}

fn parent(experiment_id: &str, sweep: &str, start_ms: u64) -> Value {
    json!({
        "experiment_id": experiment_id,
        "run_name": sweep,
        "start_time": start_ms,
        "tags": tags(vec![(KIND, "sweep".to_owned()), (SWEEP, sweep.to_owned())]),
    })
}

/// Returns a trial's run as it is created. The rest follows in batches.
fn child(trial: &Trial, experiment_id: &str, parent: &str) -> Value {
    let (start, _) = trial.span_ms();
    let mut about = vec![
        (PARENT, parent.to_owned()),
        (KIND, "trial".to_owned()),
        (SWEEP, trial.sweep.clone()),
        (TRIAL, trial.trial.clone()),
        (ATTEMPT, trial.attempt()),
        ("orchestrator.cell", trial.cell.clone()),
        ("orchestrator.role", trial.role.clone()),
    ];
    let provenance = |name: &str| {
        let value = trial.provenance.as_ref().and_then(|all| all.get(name));
        value.map(plain)
    };
    about.extend(provenance("trainer").map(|value| ("orchestrator.trainer", value)));
    about.extend(
        provenance("data_fingerprint").map(|value| ("orchestrator.data_fingerprint", value)),
    );
    about.extend(trial.failure.as_ref().map(|failure| {
        let first_line = failure.message.lines().next().unwrap_or_default();
        (
            "orchestrator.failure",
            format!("{}: {first_line}", failure.class),
        )
    }));
    json!({
        "experiment_id": experiment_id,
        "run_name": trial.name(),
        "start_time": start,
        "tags": tags(about),
    })
}

fn tags(tags: Vec<(&str, String)>) -> Vec<Value> {
    debug_assert!(tags.len() <= MAX_TAGS);
    let tag =
        |(key, value): (&str, String)| json!({ "key": key, "value": shortened(&value, MAX_TAG) });
    tags.into_iter().map(tag).collect()
}

/// Returns everything that a trial's run holds, in batches that the server takes.
fn batches(trial: &Trial, run_id: &str) -> Vec<Value> {
    let params: Vec<Value> = trial
        .parameters()
        .iter()
        .map(|(name, value)| json!({ "key": key(name), "value": shortened(&plain(value), MAX_PARAM) }))
        .collect();
    let metrics = metrics(trial);
    let (mut params, mut metrics) = (params.as_slice(), metrics.as_slice());
    let mut batches = Vec::new();
    while !params.is_empty() || !metrics.is_empty() {
        let (first_params, rest) = params.split_at(params.len().min(MAX_PARAMS));
        params = rest;
        let room = MAX_METRICS.min(MAX_ENTITIES - first_params.len());
        let (first_metrics, rest) = metrics.split_at(metrics.len().min(room));
        metrics = rest;
        batches.push(json!({ "run_id": run_id, "params": first_params, "metrics": first_metrics }));
    }
    batches
}

/// Returns the learning curves, and the numbers of the result at the last epoch.
fn metrics(trial: &Trial) -> Vec<Value> {
    let metric = |name: &str, value: f64, timestamp: u64, step: usize| json!({ "key": key(name), "value": value, "timestamp": timestamp, "step": step });
    let curve = trial.curve.iter().enumerate().flat_map(|(epoch, numbers)| {
        let timestamp = trial.epoch_ms(epoch);
        numbers
            .iter()
            .map(move |(name, value)| metric(name, *value, timestamp, epoch))
    });
    let in_curve = |name: &str| trial.curve.iter().any(|epoch| epoch.contains_key(name));
    let (_, end) = trial.span_ms();
    let last = trial.curve.len().saturating_sub(1);
    let numbers = trial
        .numbers()
        .into_iter()
        .filter(|(name, _)| !in_curve(name));
    curve
        .chain(numbers.map(|(name, value)| metric(&name, value, end, last)))
        .collect()
}

/// Returns a name in the letters that the server takes.
fn key(name: &str) -> String {
    let letter = |letter: char| match letter.is_alphanumeric() || "_-./ ".contains(letter) {
        true => letter,
        false => '_',
    };
    name.chars().map(letter).take(MAX_KEY).collect()
}

fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::tests::trial;

    #[test]
    fn a_small_trial_is_one_batch() {
        let batches = batches(&trial(), "run");
        let [batch] = batches.as_slice() else {
            panic!("{batches:?}");
        };
        assert_eq!(
            batch["params"][1],
            json!({"key": "learning_rate", "value": "0.1"})
        );
        let metric = |key, value, timestamp, step| json!({ "key": key, "value": value, "timestamp": timestamp, "step": step });
        let expected = [
            metric("accuracy", 0.7, 11_000, 0),
            metric("train_loss", 0.5, 11_000, 0),
            metric("train_loss", 0.1, 21_000, 1),
            metric("best_epoch", 1.0, 21_000, 1),
            metric("last_accuracy", 0.75, 21_000, 1),
            metric("train_s", 20.0, 21_000, 1),
        ];
        assert_eq!(batch["metrics"], json!(expected));
    }

    #[test]
    fn batches_stay_within_the_limits_and_lose_nothing() {
        let mut large = trial();
        large.curve = vec![large.curve[0].clone(); 1234];
        for number in 0..150 {
            large
                .settings
                .insert(format!("setting {number}"), number.into());
        }
        let batches = batches(&large, "run");
        let count = |batch: &Value, part: &str| batch[part].as_array().unwrap().len();
        for batch in &batches {
            assert!(count(batch, "params") <= MAX_PARAMS && count(batch, "metrics") <= MAX_METRICS);
            assert!(count(batch, "params") + count(batch, "metrics") <= MAX_ENTITIES);
            assert!(batch.to_string().len() < 1_000_000);
        }
        let all = |part: &str| {
            batches
                .iter()
                .map(|batch| count(batch, part))
                .sum::<usize>()
        };
        assert_eq!((all("params"), all("metrics")), (156, 2 * 1234 + 3));
    }

    #[test]
    fn a_failure_is_a_tag_and_names_are_in_the_servers_letters() {
        let mut failed = trial();
        failed.failure = Some(crate::Failure {
            class: "crashed".to_owned(),
            message: "signal 11\nmore".to_owned(),
        });
        let run = json!({ "data": child(&failed, "1", "parent"), "info": {} });
        assert_eq!(tag(&run, "orchestrator.failure"), "crashed: signal 11");
        assert_eq!(
            (tag(&run, PARENT), tag(&run, ATTEMPT)),
            ("parent".to_owned(), failed.attempt())
        );
        assert_eq!(key("a:b=ä/c"), "a_b_ä/c");
    }
}
