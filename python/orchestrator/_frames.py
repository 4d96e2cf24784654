"""Frames between this program and its worker: a little-endian u32 length and that many bytes of JSON.

The worker's pipes are taken away from the program at import: what it prints goes to stderr, which
is the trial's log, and what it reads is empty. A thread reads requests, so that a stop arrives
within a trial and the end of stdin ends the process at once.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
from typing import Any, Dict, Optional, Tuple

PROTOCOL = 1
VARIABLE = "ORCHESTRATOR_PROTOCOL"
MAX_FRAME = 64 << 20

# A request to run a trial, and the event that a stop sets.
Run = Tuple[Dict[str, Any], threading.Event]


class Channel:
    """The conversation with the worker."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies
        self._lock = threading.Lock()
        self._runs: "queue.SimpleQueue[Run]" = queue.SimpleQueue()
        self._stop = threading.Event()
        self._owner = os.getpid()
        self._listening = False
        # a forked child that kept them would hide this program's end from the worker
        os.register_at_fork(after_in_child=self._close)

    def send(self, kind: str, message: Any = None) -> None:
        """Sends a reply; `stopped` has no content."""
        if os.getpid() != self._owner:
            raise RuntimeError("only the process that was started by the worker reports on its trial")
        reply = kind if message is None else {kind: message}
        # infinite numbers and NaN are not JSON, and the worker would refuse the frame
        text = json.dumps(reply, allow_nan=False, separators=(",", ":")).encode()
        if len(text) > MAX_FRAME:
            raise ValueError(f"a message of {len(text)} bytes; at most {MAX_FRAME} are allowed")
        with self._lock:
            _write(self._replies, struct.pack("<I", len(text)) + text)

    def next_run(self) -> Run:
        """Waits for the next trial. The process ends when there is none."""
        if not self._listening:
            self._listening = True
            threading.Thread(target=self._listen, name="orchestrator-requests", daemon=True).start()
        return self._runs.get()

    def _listen(self) -> None:
        while True:
            request = _read_frame(self._requests)
            if request is None:
                # the worker is gone, or ends this program
                os._exit(0)
            if request == "stop":
                self._stop.set()
            elif isinstance(request, dict) and "run" in request:
                # a stop belongs to the run before it
                self._stop = threading.Event()
                self._runs.put((request["run"], self._stop))
            else:
                sys.stderr.write(f"error: the worker sent an unknown request: {str(request)[:200]}\n")
                os._exit(2)

    def _close(self) -> None:
        for descriptor in (self._requests, self._replies):
            try:
                os.close(descriptor)
            except OSError:
                pass


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, count: int) -> Optional[bytes]:
    content = bytearray()
    while len(content) < count:
        piece = os.read(descriptor, min(count - len(content), 1 << 20))
        if not piece:
            return None
        content += piece
    return bytes(content)


def _read_frame(descriptor: int) -> Any:
    header = _read(descriptor, 4)
    if header is None:
        return None
    content = _read(descriptor, struct.unpack("<I", header)[0])
    return None if content is None else json.loads(content)


def take_pipes() -> Optional[Channel]:
    """Takes stdin and stdout if a worker has started this program."""
    if sys.argv[1:2] != ["serve"] or VARIABLE not in os.environ:
        return None
    # processes that this program starts are no trainers
    offered = os.environ.pop(VARIABLE)
    if not offered.isdigit() or int(offered) < PROTOCOL:
        sys.exit(f"error: this worker has version {offered} of the trainer protocol, and {PROTOCOL} is needed")
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.stdout is not None:
        # text that was printed before this import is still in the buffer, if there was little of it
        sys.stdout.flush()
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(line_buffering=True)
    return Channel(requests, replies)
