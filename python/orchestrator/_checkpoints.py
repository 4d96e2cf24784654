"""Checkpoints of one trial, in a folder that its attempts share.

A checkpoint is two files whose names hold epoch and attempt: the program's state, and a note with
the records of the epochs and the state's checksum, which is written last. Two attempts may run at
once if a worker was cut off, so each writes files of its own names and removes none of a later one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from ._failure import Failure

NAME = re.compile(r"epoch-(\d{5})\.attempt-(\d+)\.(state|json)(\.partial)?")
CHAIN = re.compile(r"chain\.attempt-(\d+)")
# The newest, and the one before in case the newest is damaged.
NUM_KEPT = 2
FORMAT = 1

Save = Union[bytes, Callable[[IO[bytes]], Any]]


class Saved(NamedTuple):
    """A sound checkpoint."""

    epoch: int
    state: Path
    note: Dict[str, Any]


class Folder:
    """The checkpoints of a trial, as one attempt uses them."""

    def __init__(self, path: Path, attempt: int, since: int) -> None:
        self.path = path
        self.attempt = attempt
        self.since = since
        path.mkdir(parents=True, exist_ok=True)
        self._earlier = self._read_hashes()
        self._hashes = open(path / f"chain.attempt-{attempt}", "w", encoding="ascii")

    def newest(self) -> Optional[Saved]:
        """Returns the newest sound checkpoint of this attempt or an earlier one of this training."""
        for epoch, attempt in sorted(self._notes(), reverse=True):
            if self.since <= attempt <= self.attempt:
                saved = self._load(epoch, attempt)
                if saved is not None:
                    return saved
        return None

    def write(self, epoch: int, save: Save, note: Dict[str, Any]) -> None:
        """Writes a checkpoint after `epoch` epochs, and removes old ones."""
        self.refuse_later_attempt()
        stem = f"epoch-{epoch:05}.attempt-{self.attempt}"
        state, checksum = self.path / f"{stem}.state", hashlib.sha256()

        def write_state(file: IO[bytes]) -> None:
            if callable(save):
                save(file)
            else:
                file.write(save)

        _replace(state, write_state)
        with open(state, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                checksum.update(piece)
        whole = {"format": FORMAT, "epoch": epoch, "sha256": checksum.hexdigest(), **note}
        text = json.dumps(whole, allow_nan=False).encode()
        _replace(self.path / f"{stem}.json", lambda file: file.write(text))
        self._prune()

    def refuse_later_attempt(self) -> None:
        """Ends this attempt if the trial was given to another worker meanwhile."""
        later = [attempt for _, attempt in self._notes() if attempt > self.attempt]
        if later:
            raise Failure(f"attempt {max(later)} of this trial runs elsewhere; this is attempt {self.attempt}")

    def record(self, epoch: int, state_hash: str) -> bool:
        """Notes an epoch's hash. Returns False if an earlier attempt had another state after it."""
        self._hashes.write(f"{epoch} {state_hash}\n")
        self._hashes.flush()
        return self._earlier.get(epoch, state_hash) == state_hash

    def close(self) -> None:
        self._hashes.close()

    def _notes(self) -> List[Tuple[int, int]]:
        found = []
        for name in os.listdir(self.path):
            match = NAME.fullmatch(name)
            if match and match[3] == "json" and not match[4]:
                found.append((int(match[1]), int(match[2])))
        return found

    def _load(self, epoch: int, attempt: int) -> Optional[Saved]:
        stem = f"epoch-{epoch:05}.attempt-{attempt}"
        state, checksum = self.path / f"{stem}.state", hashlib.sha256()
        try:
            note = json.loads((self.path / f"{stem}.json").read_bytes())
            with open(state, "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    checksum.update(piece)
        except (OSError, ValueError):
            return None
        is_sound = note.get("format") == FORMAT and note.get("sha256") == checksum.hexdigest()
        return Saved(epoch, state, note) if is_sound else None

    def _prune(self) -> None:
        mine = sorted(place for place in self._notes() if place[1] <= self.attempt)
        kept = set(mine[-NUM_KEPT:])
        for name in os.listdir(self.path):
            match = NAME.fullmatch(name)
            if not match or int(match[2]) > self.attempt:
                continue
            if (int(match[1]), int(match[2])) not in kept:
                try:
                    os.remove(self.path / name)
                except FileNotFoundError:
                    pass

    def _read_hashes(self) -> Dict[int, str]:
        """Reads the earlier attempts' hashes. If attempts disagree, the newest counts."""
        attempts = []
        for name in os.listdir(self.path):
            match = CHAIN.fullmatch(name)
            if match and self.since <= int(match[1]) < self.attempt:
                attempts.append((int(match[1]), name))
        hashes: Dict[int, str] = {}
        for _, name in sorted(attempts):
            for line in (self.path / name).read_text("ascii", "replace").splitlines():
                epoch, _, state_hash = line.partition(" ")
                # a shorter line was cut off by a crash
                if epoch.isdigit() and len(state_hash) == 16:
                    hashes[int(epoch)] = state_hash
        return hashes


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file beside its place, and gives it its name when it is on the disk."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
