"""Reads the exports of a sweep with the tools that they are for, and compares every value with curves.csv, results.csv and
results.json.

    check.py RESULTS MLFLOW_URL    RESULTS: the sweep's results folder, with the exports in their default places

Prints the number of values that each tool gave.
"""

import collections
import csv
import json
import os
import pathlib
import struct
import sys

folder, mlflow_url = pathlib.Path(sys.argv[1]), sys.argv[2]
os.environ["TRACKIO_DIR"] = str(folder / "trackio")

results = json.loads((folder / "results.json").read_text())
trials = {trial["trial"]: trial for trial in results["trials"]}
curves = collections.defaultdict(dict)
with open(folder / "curves.csv", newline="") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    curves[row["trial"]][row["name"], int(row["epoch"])] = float(row["value"])
assert trials and curves.keys() == trials.keys(), "every trial has a result"


def equal(what, found, expected):
    assert found == expected, f"{what}: {found!r} was read, {expected!r} was trained"


def numbers(trial):
    """What a trial's result and timing have as numbers, besides the curve."""
    in_curve = {name for name, _ in curves[trial["trial"]]}
    both = {**trial["timing"], **trial["result"]}
    return {
        name: value
        for name, value in both.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in in_curve
    }


def parameters(trial):
    settings = {name: value for name, value in trial["settings"].items() if value is not None}
    return {**trial["axes"], **settings, "seed": trial["seed"]}


def parquet():
    from pyarrow import parquet

    table = parquet.read_table(folder / "curves.parquet").to_pylist()
    equal("rows", len(table), len(rows))
    for row in rows:
        row.update(seed=int(row["seed"]), epoch=int(row["epoch"]), value=float(row["value"]))
        row["candidate"] = row["candidate"] or None
    key = lambda row: (row["trial"], row["epoch"], row["name"])
    for found, expected in zip(sorted(table, key=key), sorted(rows, key=key)):
        equal("row", found, expected)
    return len(table)


def tensorboard():
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata
    from tensorboard.util import tensor_util

    single = lambda value: struct.unpack("f", struct.pack("f", value))[0]
    files = list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    equal("event files", len(files), len(trials))
    count = 0
    for path in files:
        trial = trials[path.parent.name.split(" ")[1]]
        found, start = {}, None
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.tag == "_hparams_/session_start_info":
                    start = metadata.parse_session_start_info_plugin_data(content)
                elif value.tag == "_hparams_/session_end_info":
                    equal("status", metadata.parse_session_end_info_plugin_data(content).status, 1)
                else:
                    equal("plugin", value.metadata.plugin_data.plugin_name, "scalars")
                    found[value.tag, event.step] = tensor_util.make_ndarray(value.tensor).item()
        expected = {key: single(value) for key, value in curves[trial["trial"]].items()}
        equal("curve", found, expected)
        hparams = {}
        for name, value in start.hparams.items():
            hparams[name] = getattr(value, value.WhichOneof("kind"))
        text = lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True)
        plain = lambda value: text(value) if isinstance(value, (dict, list)) else value
        equal("hparams", hparams, {name: plain(value) for name, value in parameters(trial).items()})
        count += len(found)
    return count


def trackio():
    import trackio
    from trackio import fragments
    from trackio.sqlite_storage import SQLiteStorage

    fragments.import_inbox_dir()
    count, seen = 0, set()
    for run in trackio.Api().runs(results["sweep"]):
        trial = trials[run.config["trial"]]
        if run.id != f"{trial['trial']}-{len(trial['attempts'])}":
            continue  # an earlier attempt: trackio keeps what it took in
        seen.add(trial["trial"])
        equal("learning rate", run.config["learning_rate"], trial["settings"]["learning_rate"])
        expected = dict(curves[trial["trial"]])
        last = max(epoch for _, epoch in expected)
        expected.update({(name, last): value for name, value in numbers(trial).items()})
        found = {}
        for log in SQLiteStorage.get_logs(results["sweep"], run_id=run.id):
            for name, value in log.items():
                if name not in ("step", "timestamp"):
                    assert (name, log["step"]) not in found, "one record for each epoch"
                    found[name, log["step"]] = value
        equal("metrics", found, expected)
        count += len(found)
    equal("trials", seen, set(trials))
    return count


def mlflow():
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_url)
    experiment = client.get_experiment_by_name("orchestrator")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if run.data.tags["orchestrator.kind"] == "sweep"]
    equal("parent", (parent.info.run_name, parent.info.status), (results["sweep"], "FINISHED"))
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    equal("children", sorted(run.data.tags["orchestrator.trial"] for run in children), sorted(trials))
    count = 0
    for run in children:
        trial = trials[run.data.tags["orchestrator.trial"]]
        equal("status", run.info.status, "FINISHED")
        attempt = f"{trial['trial']}-{len(trial['attempts'])}"
        equal("attempt", run.data.tags["orchestrator.attempt"], attempt)
        equal("params", run.data.params.keys(), parameters(trial).keys())
        equal("learning rate", float(run.data.params["learning_rate"]), trial["settings"]["learning_rate"])
        expected = dict(curves[trial["trial"]])
        last = max(epoch for _, epoch in expected)
        expected.update({(name, last): value for name, value in numbers(trial).items()})
        found = {}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                assert (name, metric.step) not in found, "one value for each epoch"
                found[name, metric.step] = metric.value
        equal("metrics", found, expected)
        count += len(found)
    return count


print(*(f"{check.__name__} {check()}" for check in (parquet, tensorboard, trackio, mlflow)), sep="\n")
