"""A stand-in for the worker: starts a program and talks to it in frames."""

import json
import os
import pathlib
import select
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import Any, Dict, Optional

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# Longer than anything here takes on a busy machine.
DEADLINE = 120.0

# A program that trains nothing: its state is a number, and its figures follow from state and seed.
PROGRAM = """
import orchestrator
import time

def main():
    for trial in orchestrator.trials(learning_rate=0.1, epochs=4, samples_per_class="all"):
        saved = trial.resume()
        state = int(saved.read_text()) if saved else 1000 * trial.seed
        for epoch in trial.epochs():
            print("epoch", epoch)
            state += 7
            trial.epoch(train_loss=1 / state, accuracy=state % 100 / 100, state=str(state).encode())
            trial.checkpoint(str(state).encode())
        trial.classes([0, 0, 1], [0, 1, 1])
        trial.finish(num_parameters=1)

if __name__ == "__main__":
    main()
"""


class Folder:
    """A folder with a program, for one test."""

    def __init__(self, text: str = PROGRAM) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self._folder.name)
        self.program = self.path / "train.py"
        self.program.write_text(textwrap.dedent(text))

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def request(self, attempt: int = 1, since: int = 1, keep: Any = (), **settings: Any) -> Dict[str, Any]:
        """A request to run the trial of this folder."""
        epochs = settings.pop("epochs", 4)
        return {
            "trial": "t00000000000000aa",
            "attempt": attempt,
            "since": since,
            "num_epochs": epochs,
            "spec": {"settings": settings, "seed": 5, "smoke": False},
            "data_dir": str(self.path / "data"),
            "cache_dir": str(self.path / "cache"),
            "keep": list(keep),
            "checkpoint_dir": str(self.path / "checkpoints"),
        }

    def by_hand(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs the program by hand."""
        return subprocess.run(
            [sys.executable, str(self.program), *arguments],
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )


class Worker:
    """One program as a trainer."""

    def __init__(self, folder: Folder, devices: str = "cpu", protocol: str = "1") -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "ORCHESTRATOR_PROTOCOL": protocol}
        # text printed before the import would be sent at once
        environment.pop("PYTHONUNBUFFERED", None)
        self.log_file = open(folder.path / "log", "ab")
        self.log_path = folder.path / "log"
        self.process = subprocess.Popen(
            [sys.executable, str(folder.program), "serve", "--threads", "1", "--devices", devices],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log_file,
            env=environment,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.log_file.close()

    def ready(self) -> Dict[str, Any]:
        reply = self.reply()
        assert isinstance(reply, dict) and "ready" in reply, reply
        return reply["ready"]

    def send(self, request: Any) -> None:
        assert self.process.stdin
        text = json.dumps(request).encode()
        self.process.stdin.write(struct.pack("<I", len(text)) + text)
        self.process.stdin.flush()

    def run(self, request: Dict[str, Any]) -> None:
        self.send({"run": request})

    def reply(self) -> Any:
        """The next reply; None at the end of the program's stdout."""
        header = self._read(4)
        if header is None:
            return None
        content = self._read(struct.unpack("<I", header)[0])
        return None if content is None else json.loads(content)

    def end(self) -> Any:
        """The reply that ends the run, after any number of progress reports."""
        while True:
            reply = self.reply()
            if not (isinstance(reply, dict) and "progress" in reply):
                return reply

    def finished(self) -> Dict[str, Any]:
        reply = self.end()
        assert isinstance(reply, dict) and "finished" in reply, (reply, self.log())
        return reply["finished"]

    def failed(self) -> Dict[str, Any]:
        reply = self.end()
        assert isinstance(reply, dict) and "failed" in reply, (reply, self.log())
        return reply["failed"]

    def wait(self) -> int:
        """The exit code, after the end of the program's stdin."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(DEADLINE)

    def log(self) -> str:
        return self.log_path.read_text()

    def _read(self, count: int) -> Optional[bytes]:
        assert self.process.stdout
        descriptor, content, end = self.process.stdout.fileno(), b"", time.monotonic() + DEADLINE
        while len(content) < count:
            ready, _, _ = select.select([descriptor], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no reply within {DEADLINE} s; log: {self.log()}"
            piece = os.read(descriptor, count - len(content))
            if not piece:
                return None
            content += piece
        return content
