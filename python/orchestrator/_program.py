"""The loop over trials: those of a worker, or one by hand."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from . import _frames
from ._failure import Failure, describe
from ._trial import Trial, program_name

# Threads of the libraries that count their own, unless the user has set them.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class _Session:
    """The trials of a worker."""

    def __init__(self, channel: _frames.Channel, devices: List[str], threads: int) -> None:
        self.channel = channel
        self.devices = devices
        self.threads = threads
        self.trial: Optional[Trial] = None
        self.owner = os.getpid()

    def progress(self, progress: Dict[str, Any]) -> None:
        self.channel.send("progress", progress)

    def trials(self, defaults: Dict[str, Any]) -> Iterator[Trial]:
        torch = sys.modules.get("torch")
        ready = {
            "protocol": _frames.PROTOCOL,
            "build": program_name(),
            "libtorch": getattr(torch, "__version__", ""),
            "devices": self.devices,
        }
        self.channel.send("ready", ready)
        while True:
            request, stop = self.channel.next_run()
            try:
                self.trial = Trial(request, defaults, self.devices, self.threads, self, stop)
            except Exception as error:
                self.channel.send("failed", describe(error))
                raise
            yield self.trial
            self.conclude()

    def conclude(self) -> None:
        """Sends the end of the trial: its result, or that it was stopped."""
        trial = self.trial
        if trial is None:
            return
        if trial.should_stop and not trial.is_complete():
            self.trial = None
            trial.close()
            self.channel.send("stopped")
            return
        result = trial.result()
        self.trial = None
        trial.close()
        self.channel.send("finished", result)

    def fail(self, error: BaseException) -> None:
        """Sends the failure of the trial, once."""
        if self.trial is not None and os.getpid() == self.owner:
            self.trial = None
            self.channel.send("failed", describe(error))

    def at_exit(self) -> None:
        """Ends a trial that the program has left: by `break`, by `sys.exit`, at its end."""
        if self.trial is None or os.getpid() != self.owner:
            return
        try:
            self.conclude()
        except Exception as error:
            self.fail(error)


def _serve() -> Optional[_Session]:
    channel = _frames.take_pipes()
    if channel is None:
        return None
    parser = argparse.ArgumentParser(prog=f"{program_name()} serve")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--devices", default="cpu")
    # what a later worker may add
    arguments, _ = parser.parse_known_args(sys.argv[2:])
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(arguments.threads))
    kind, _, numbers = arguments.devices.partition(":")
    devices = [f"{kind}:{number}" for number in numbers.split(",")] if numbers else [kind]
    session = _Session(channel, devices, arguments.threads)

    def report(previous: Callable[..., Any]) -> Callable[..., Any]:
        def hook(kind: Any, error: BaseException, trace: Any) -> None:
            # after the failure the worker ends this process: the log must be whole by then
            try:
                previous(kind, error, trace)
            finally:
                session.fail(error)

        return hook

    sys.excepthook = report(sys.excepthook)
    atexit.register(session.at_exit)
    return session


_session = _serve()


def trials(**defaults: Any) -> Iterator[Trial]:
    """Yields the trials of the worker that started this program, or one by hand.

    The keywords are the program's settings with their defaults. In a sweep its values replace them.
    By hand they are flags: `trials(learning_rate=0.1)` takes `--learning-rate 0.3`.
    """
    if _session is not None:
        return _session.trials(defaults)
    return _by_hand(defaults)


# -- by hand


class _Terminal:
    """Shows progress on stderr: one line that changes on a terminal, a line per epoch elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.is_terminal = sys.stderr.isatty()
        self.epoch = 0

    def progress(self, progress: Dict[str, Any]) -> None:
        ends_epoch = progress["epoch"] != self.epoch
        if not (ends_epoch or self.is_terminal):
            return
        self.epoch = progress["epoch"]
        parts = [f"epoch {self.epoch}/{progress['num_epochs']}"]
        if progress["train_loss"] is not None:
            parts.append(f"loss {progress['train_loss']:.4f}")
        if progress["accuracy"] is not None:
            parts.append(f"accuracy {100 * progress['accuracy']:.2f} %")
        parts.append(f"{time.monotonic() - self.started:.1f} s")
        is_last = self.epoch == progress["num_epochs"]
        end = "\n" if is_last or not self.is_terminal else ""
        start = "\r\033[K" if self.is_terminal else ""
        sys.stderr.write(start + "   ".join(parts) + end)
        sys.stderr.flush()


def _by_hand(defaults: Dict[str, Any]) -> Iterator[Trial]:
    arguments = _arguments(defaults)
    settings = {name: getattr(arguments, name) for name in defaults}
    request = {
        "trial": "by hand",
        "attempt": 1,
        "num_epochs": int(settings.get("epochs", 1)),
        "spec": {"settings": settings, "seed": arguments.seed, "smoke": False},
        "data_dir": arguments.data_dir,
        "checkpoint_dir": arguments.checkpoint_dir,
    }
    devices = arguments.devices.split(",")
    trial = Trial(request, defaults, devices, os.cpu_count() or 1, _Terminal(), threading.Event())
    yield trial
    result = trial.result()
    trial.close()
    last, best = 100 * result["last_accuracy"], 100 * result["best_accuracy"]
    where = f"best {best:.2f} % after epoch {result['best_epoch'] + 1}"
    print(f"accuracy {last:.2f} % after {trial.num_epochs} epochs, {where}")
    if arguments.result:
        with open(arguments.result, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


def _arguments(defaults: Dict[str, Any]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains one trial. In a sweep, `orchestrator run SWEEP --trainer PROGRAM` starts this program.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    own = parser.add_argument_group("of every program")
    own.add_argument("--seed", type=int, default=1, help="seed of the trial")
    own.add_argument("--devices", default="cpu", help="devices, as cpu or cuda:0,cuda:1")
    own.add_argument("--data-dir", default="data", help="folder with data sets")
    own.add_argument("--checkpoint-dir", default=None, help="folder for checkpoints; none are written without it")
    own.add_argument("--result", default=None, metavar="FILE", help="file for the result as JSON")
    settings = parser.add_argument_group("settings")
    for name, default in defaults.items():
        if not name.isidentifier() or hasattr(parser.parse_args([]), name):
            raise Failure(f"a setting cannot have the name `{name}`")
        flag = "--" + name.replace("_", "-")
        settings.add_argument(flag, dest=name, type=_reader(name, default), default=default, help=" ")
    return parser.parse_args()


def _reader(name: str, default: Any) -> Callable[[str], Any]:
    """Returns the function that reads a setting: of its default's type, or JSON."""

    def read(text: str) -> Any:
        if name == "samples_per_class":
            return text if text == "all" else int(text)
        if isinstance(default, bool):
            if text not in ("true", "false"):
                raise argparse.ArgumentTypeError(f"`{text}` is neither true nor false")
            return text == "true"
        if isinstance(default, (int, float, str)):
            return type(default)(text)
        try:
            return json.loads(text)
        except ValueError:
            return text

    read.__name__ = type(default).__name__
    return read
