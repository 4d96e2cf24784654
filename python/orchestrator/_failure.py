"""The reasons why a trial ends without a result, in the classes of the protocol."""

from __future__ import annotations

import errno
import traceback
from typing import Any, Dict

# Less than the 16 KiB that the worker accepts.
MAX_MESSAGE = 12_000
# The node is at fault, not the trial: no room, no descriptors, no memory for the kernel.
NODE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Failure(Exception):
    """Ends the trial. Its class decides whether the trial is retried."""

    failure_class = "crashed"


class BadInput(Failure):
    """The user must fix it: a setting or data that the program cannot use. Never retried."""

    failure_class = "bad_input"


class NonFinite(Failure):
    """The loss became infinite or not a number."""

    failure_class = "non_finite"


def class_of(error: BaseException) -> str:
    """Returns the failure class of an exception."""
    if isinstance(error, Failure):
        return error.failure_class
    # torch has one of its own in two places, by version
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if isinstance(error, FloatingPointError):
        return "non_finite"
    if isinstance(error, OSError) and error.errno in NODE_ERRORS:
        return "node"
    return "crashed"


def describe(error: BaseException) -> Dict[str, Any]:
    """Returns the `failed` message for an exception: one line, then its traceback."""
    text = str(error).strip()
    name = type(error).__name__
    head = text if isinstance(error, Failure) and text else f"{name}: {text}" if text else name
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    # the innermost calls are at the end
    return {"class": class_of(error), "message": f"{head[:1000]}\n{trace[-MAX_MESSAGE:]}"}
