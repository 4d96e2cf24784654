"""One trial: what it was given, what it reports, and the result that its reports add up to."""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import io
import json
import math
import os
import resource
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Protocol, Sequence, Set, Tuple

from ._checkpoints import Folder, Save
from ._failure import BadInput, Failure, NonFinite
from ._subset import hold_out, subset

# Settings that mean the same for every program.
COMMON = ("dataset", "samples_per_class", "holdout", "evaluate_every")
# Seconds between two progress reports within an epoch.
REPORT_INTERVAL = 0.5


class Settings(Dict[str, Any]):
    """The settings of a trial by name. A name that is not there ends the trial with a suggestion."""

    def __missing__(self, name: str) -> Any:
        near = difflib.get_close_matches(name, self, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise BadInput(f"the trial has no setting `{name}`{hint}")


class Listener(Protocol):
    """Receives what a trial reports: the worker, or a terminal."""

    def progress(self, progress: Dict[str, Any]) -> None: ...


class Trial:
    """One training. Made by `orchestrator.trials`.

    id: name of the trial in tables and commands.
    attempt: number of this try at it, from 1.
    settings: its settings by name.
    seed: its seed; everything random should follow from it.
    devices: `["cpu"]`, or `["cuda:0", ...]` as this process sees them: all belong to this trial.
    threads: number of CPU threads that it should use.
    num_epochs: number of epochs to train.
    data_dir: folder with data sets.
    smoke: True in a rehearsal, whose numbers do not matter.
    keep: `predictions` if the sweep keeps them.
    checkpoint_interval: seconds between two checkpoints, unless the trial ends or was stopped.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        defaults: Mapping[str, Any],
        devices: Sequence[str],
        threads: int,
        listener: Listener,
        stop: threading.Event,
    ) -> None:
        spec = request["spec"]
        self.id: str = request["trial"]
        self.attempt: int = request["attempt"]
        self.num_epochs: int = request["num_epochs"]
        settings = dict(spec["settings"])
        own = settings.pop("program", None)
        if own is not None:
            # the sweep has a `program:`, whose fields are all that it sets
            settings = {name: settings[name] for name in COMMON if name in settings}
            settings.update(own, epochs=self.num_epochs)
        self.settings = Settings({**defaults, **settings})
        if "epochs" in self.settings:
            self.settings["epochs"] = self.num_epochs
        self.seed: int = spec["seed"]
        self.smoke: bool = spec["smoke"]
        self.devices: List[str] = list(devices)
        self.threads = threads
        self.data_dir = Path(request["data_dir"])
        self.keep: Set[str] = set(request.get("keep", ()))
        self.checkpoint_interval = 1.0
        self._listener = listener
        self._stop = stop
        folder = request.get("checkpoint_dir")
        self._folder = Folder(Path(folder), self.attempt, request.get("since", 1)) if folder else None
        self._records: List[Dict[str, Any]] = []
        self._chain = ""
        self._step = 0
        self._steps_in_epoch = 0
        self._steps_per_epoch = 0
        self._images = 0
        self._subset: Any = None
        self._num_eval_images = 0
        self._classes: Optional[Dict[str, List[int]]] = None
        self._extra: Dict[str, Any] = {}
        self._resumed_from = 0
        self._departed_at: Optional[int] = None
        self._seconds = {"train_s": 0.0, "checkpoint_s": 0.0}
        self._images_before = 0
        self._started = self._mark = time.monotonic()
        self._start_s: Optional[float] = None
        self._last_report = self._last_checkpoint = self._started
        self._saved_epoch = 0

    # -- what the loop asks

    @property
    def should_stop(self) -> bool:
        """True once the worker asks to stop: write a checkpoint and leave the loop within 30 s."""
        return self._stop.is_set()

    @property
    def next_epoch(self) -> int:
        """The epoch to be trained next, from 0."""
        return len(self._records)

    def resume(self) -> Optional[Path]:
        """Returns the file with the state to continue from, or None for a fresh start."""
        if self._folder is None:
            return None
        self._folder.refuse_later_attempt()
        saved = self._folder.newest()
        if saved is None:
            return None
        note = saved.note
        self._records, self._chain = list(note["epochs"]), note["chain"]
        self._seconds = dict(note["seconds"])
        self._images_before, self._departed_at = note["images"], note["departed_at"]
        self._classes, self._num_eval_images = note["classes"], note["num_eval_images"]
        self._resumed_from = self._saved_epoch = saved.epoch
        return saved.state

    def epochs(self) -> Iterator[int]:
        """Yields the epochs that are left, from 0, until the trial is complete or was stopped."""
        while len(self._records) < self.num_epochs and not self.should_stop:
            epoch = len(self._records)
            if self._start_s is None:
                self._mark = time.monotonic()
                self._start_s = self._mark - self._started
            yield epoch
            if len(self._records) == epoch:
                raise Failure(f"the loop over epochs ended epoch {epoch} without trial.epoch(...)")

    def evaluates_after(self, epoch: int) -> bool:
        """True if the sweep evaluates after this epoch, counted from 0."""
        every = self.settings.get("evaluate_every", 1)
        return (epoch + 1) % every == 0 or epoch + 1 == self.num_epochs

    def split(self, labels: Sequence[int]) -> Tuple[List[int], Optional[List[int]]]:
        """Returns the indices of the images to train on, and of those to evaluate on.

        `labels` are those of the whole training set. They follow from `samples_per_class`,
        `holdout` and the seed, and are the built-in trainer's. The second list is None if the
        sweep evaluates on the test set.
        """
        wanted = "all" if self.smoke else self.settings.get("samples_per_class", "all")
        # a seed above 2^32 holds a seed of the subset, plus one, in its upper half
        seed, fold = self.seed, self.seed
        if self.seed >> 32:
            seed, fold = (self.seed >> 32) - 1, self.seed & 0xFFFFFFFF
        chosen = subset(labels, wanted, seed)
        held_out = None
        holdout = self.settings.get("holdout")
        if holdout is not None:
            chosen, held_out = hold_out(chosen, labels, holdout, seed, fold)
            self._num_eval_images = len(held_out)
        is_all = wanted == "all" and held_out is None
        self._subset = "all" if is_all else {"indices": chosen}
        return chosen, held_out

    # -- what the loop reports

    def step(self, count: int = 1, images: int = 0) -> None:
        """Reports steps within an epoch, so that a long one is not taken for a stall (15 minutes)."""
        self._step += count
        self._steps_in_epoch += count
        self._images += images
        if time.monotonic() - self._last_report >= REPORT_INTERVAL:
            self._report()

    def epoch(
        self,
        train_loss: float,
        accuracy: Optional[float] = None,
        *,
        eval_loss: Optional[float] = None,
        balanced_accuracy: Optional[float] = None,
        top5_accuracy: Optional[float] = None,
        state: Any = None,
    ) -> None:
        """Ends an epoch. Accuracies are fractions of the evaluation set.

        `state` is what training continues from (a state dict, arrays, bytes): its hash shows
        whether a resumed trial has the same bits. Without it the figures alone are hashed.
        """
        epoch = len(self._records)
        if epoch >= self.num_epochs:
            raise Failure(f"trial.epoch(...) was called after the last of {self.num_epochs} epochs")
        loss = float(train_loss)
        if not math.isfinite(loss):
            raise NonFinite(f"the training loss of epoch {epoch} is {loss}")
        figures = {
            "accuracy": _fraction("accuracy", accuracy),
            "balanced_accuracy": _fraction("balanced_accuracy", balanced_accuracy),
            "top5_accuracy": _fraction("top5_accuracy", top5_accuracy),
        }
        record: Dict[str, Any] = {"train_loss": loss}
        record.update((name, value) for name, value in figures.items() if value is not None)
        if eval_loss is not None and math.isfinite(float(eval_loss)):
            record["eval_loss"] = float(eval_loss)
        digest = hashlib.sha256(self._chain.encode())
        digest.update(json.dumps(record, sort_keys=True).encode() if state is None else b"state")
        _hash_state(digest, state)
        self._chain = digest.hexdigest()
        record["state_hash"] = self._chain[:16]
        self._records.append(record)
        if self._folder is not None and not self._folder.record(epoch, record["state_hash"]):
            if self._departed_at is None:
                self._departed_at = epoch
        if self._steps_in_epoch == 0:
            self._step += 1
        self._steps_per_epoch = max(self._steps_in_epoch, 1)
        self._steps_in_epoch = 0
        self._add_time("train_s")
        self._report()

    def checkpoint(self, save: Save) -> bool:
        """Writes the state of the training after an epoch. Returns whether it did.

        `save` is bytes, or a function that writes to the binary file which it receives. Short
        epochs have no checkpoint of their own: one is written when the last is `checkpoint_interval`
        old, after the last epoch, and when the trial was stopped.
        """
        epoch = len(self._records)
        is_due = time.monotonic() - self._last_checkpoint >= self.checkpoint_interval
        if self._folder is None or epoch == self._saved_epoch:
            return False
        if not (is_due or self.should_stop or epoch == self.num_epochs):
            return False
        if self._steps_in_epoch:
            raise Failure("trial.checkpoint(...) belongs after trial.epoch(...), not within an epoch")
        self._mark = time.monotonic()
        note = {
            "epochs": self._records,
            "chain": self._chain,
            "seconds": self._seconds,
            "images": self._images_before + self._images,
            "departed_at": self._departed_at,
            "classes": self._classes,
            "num_eval_images": self._num_eval_images,
        }
        self._folder.write(epoch, save, note)
        self._add_time("checkpoint_s")
        self._last_checkpoint, self._saved_epoch = self._mark, epoch
        return True

    def classes(self, labels: Iterable[int], predicted: Iterable[int], num_classes: Optional[int] = None) -> None:
        """Reports the evaluation images' classes and the classes that were predicted for them.

        Call it before the last epoch's `checkpoint`.
        """
        pairs = [(int(label), int(guess)) for label, guess in zip(labels, predicted)]
        count = num_classes if num_classes is not None else max((label for label, _ in pairs), default=-1) + 1
        images, correct = [0] * count, [0] * count
        for label, guess in pairs:
            if not 0 <= label < count:
                raise BadInput(f"label {label} is none of {count} classes")
            images[label] += 1
            correct[label] += label == guess
        self._classes = {"images": images, "correct": correct}
        self._num_eval_images = len(pairs)

    def predictions(self, labels: Sequence[int], scores: Sequence[Sequence[float]], names: Sequence[str] = ()) -> None:
        """Writes the scores of each evaluation image, if the sweep keeps them (`keep: [predictions]`)."""
        if "predictions" not in self.keep or self._folder is None:
            return
        num_classes = len(scores[0]) if len(scores) else 0
        name = list(names) or [str(label) for label in range(num_classes)]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        head = ["image", "label", "label_name", "predicted", "predicted_name"]
        table.writerow(head + [f"score_{label}" for label in range(num_classes)])
        for image, (label, row) in enumerate(zip(labels, scores)):
            values = [float(value) for value in row]
            best = values.index(max(values))
            table.writerow([image, int(label), name[int(label)], best, name[best], *values])
        path = self._folder.path / f"predictions.attempt-{self.attempt}.csv.gz"
        with open(path, "wb") as file:
            # without a time, equal predictions are equal bytes
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
                compressed.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(
        self,
        *,
        num_parameters: int = 0,
        num_eval_images: int = 0,
        precision: str = "f32",
        data_fingerprint: str = "",
    ) -> None:
        """Adds to the result what only the program knows. Nothing of it is needed."""
        self._num_eval_images = num_eval_images or self._num_eval_images
        self._extra = {
            "num_parameters": int(num_parameters),
            "precision": precision,
            "data_fingerprint": data_fingerprint,
        }

    # -- the end

    def is_complete(self) -> bool:
        return len(self._records) == self.num_epochs

    def result(self) -> Dict[str, Any]:
        """Returns the result, after the last epoch."""
        settings = self.settings
        if not self.is_complete():
            raise Failure(f"the program ended the trial after {len(self._records)} of {self.num_epochs} epochs")
        if self._subset is None and not self.smoke:
            for name, neutral in (("samples_per_class", "all"), ("holdout", None)):
                if settings.get(name, neutral) != neutral:
                    raise BadInput(
                        f"the sweep sets {name} to {settings[name]}, and the program did not call trial.split(labels)"
                    )
        if "predictions" in self.keep and self._folder is not None:
            if not (self._folder.path / f"predictions.attempt-{self.attempt}.csv.gz").exists():
                raise BadInput("the sweep keeps predictions, and the program did not call trial.predictions(...)")
        evaluated = [(i, record["accuracy"]) for i, record in enumerate(self._records) if "accuracy" in record]
        if not evaluated or evaluated[-1][0] != self.num_epochs - 1:
            raise Failure("the last epoch has no accuracy: trial.epoch(train_loss, accuracy) reports one")
        best_epoch, best = max(evaluated, key=lambda pair: (pair[1], -pair[0]))
        last = self._records[-1]
        balanced = last.get("balanced_accuracy")
        if balanced is None and self._classes is not None:
            shares = [right / n for n, right in zip(self._classes["images"], self._classes["correct"]) if n]
            balanced = sum(shares) / len(shares) if shares else None
        torch = sys.modules.get("torch")
        result = {
            "last_accuracy": last["accuracy"],
            "best_accuracy": best,
            "best_epoch": best_epoch,
            "last_balanced_accuracy": last["accuracy"] if balanced is None else balanced,
            "train_loss": last["train_loss"],
            "eval_loss": last.get("eval_loss", 0.0),
            "epochs": [{"accuracy": None, **record} for record in self._records],
            "provenance": {
                "trainer": program_name(),
                "libtorch": getattr(torch, "__version__", ""),
                "devices": _describe(self.devices, self.threads, torch),
                "host": socket.gethostname(),
                "precision": "f32",
                "data_fingerprint": "",
                "subset": self._subset or "all",
                "num_eval_images": self._num_eval_images,
                "num_parameters": 0,
                **self._extra,
            },
            "timing": self._timing(),
        }
        if self._classes is not None:
            result["classes"] = self._classes
        return result

    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()

    def _timing(self) -> Dict[str, Any]:
        images, seconds = self._images_before + self._images, self._seconds["train_s"]
        timing = {
            **self._seconds,
            "evaluate_s": 0.0,
            "data_wait_s": 0.0,
            "start_s": self._start_s or 0.0,
            "images_per_s": images / seconds if seconds > 0 else 0.0,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "resumed_from_epoch": self._resumed_from,
        }
        if self._departed_at is not None:
            timing["departed_at_epoch"] = self._departed_at
        return timing

    def _add_time(self, part: str) -> None:
        now = time.monotonic()
        self._seconds[part] += now - self._mark
        self._mark = now

    def _report(self) -> None:
        self._last_report = time.monotonic()
        last = self._records[-1] if self._records else {}
        elapsed = max(self._last_report - self._started, 1e-9)
        self._listener.progress(
            {
                "epoch": len(self._records),
                "num_epochs": self.num_epochs,
                "step": self._step,
                "steps_per_epoch": self._steps_per_epoch,
                "collectives": 0,
                "train_loss": last.get("train_loss"),
                "accuracy": last.get("accuracy"),
                "images_per_s": self._images / elapsed,
            }
        )


def program_name() -> str:
    """Returns what results and logs name this program."""
    version = ".".join(map(str, sys.version_info[:3]))
    return f"{Path(sys.argv[0]).name or 'python'} (Python {version})"


def _fraction(name: str, value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    number = float(value)
    if not 0.0 <= number <= 1.0:
        raise Failure(f"{name} is {number}; a fraction from 0 to 1 was expected")
    return number


def _describe(devices: Sequence[str], threads: int, torch: Any) -> List[str]:
    named = []
    for device in devices:
        if device == "cpu":
            named.append(f"cpu ({threads} {'thread' if threads == 1 else 'threads'})")
        elif torch is not None and torch.cuda.is_available():
            named.append(f"{device} ({torch.cuda.get_device_name(device)})")
        else:
            named.append(device)
    return named


def _hash_state(digest: Any, state: Any) -> None:
    """Adds a state of nested mappings and lists of arrays, tensors, bytes and plain values."""
    if state is None:
        return
    if isinstance(state, Mapping):
        for name in sorted(state, key=str):
            digest.update(f"{name}:".encode())
            _hash_state(digest, state[name])
    elif isinstance(state, (list, tuple)):
        digest.update(f"[{len(state)}]".encode())
        for item in state:
            _hash_state(digest, item)
    elif isinstance(state, (bytes, bytearray, memoryview)):
        digest.update(state)
    elif hasattr(state, "detach"):
        tensor = state.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.dim() == 0:
            tensor = tensor.reshape(1)
        # bf16 has no counterpart in numpy
        digest.update(tensor.view(sys.modules["torch"].uint8).numpy().tobytes())
    elif hasattr(state, "tobytes"):
        digest.update(f"{getattr(state, 'dtype', '')}{getattr(state, 'shape', '')}".encode())
        digest.update(state.tobytes())
    elif state is None or isinstance(state, (bool, int, float, str)):
        digest.update(repr(state).encode())
    else:
        kind = type(state).__name__
        raise Failure(f"trial.epoch(state=...) cannot hash a {kind}; pass a state dict, arrays or bytes")
