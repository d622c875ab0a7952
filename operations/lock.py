"""One change of a platform at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from operations.errors import OperationError


@contextmanager
def exclusive(path: Path, command: str) -> Iterator[None]:
    """Hold the lock at `path`. Raises OperationError, naming who holds it, when another process does.

    The kernel gives it back when its holder ends, however that happens: there is no stale lock.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OperationError(f"lock {path}: cannot be opened: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OperationError(
                f"{command}: another command is changing this platform: {_holder(file.read())}"
            ) from None
        since = datetime.now(UTC).strftime("%H:%M:%S UTC")
        file.truncate(0)
        file.write(json.dumps({"command": command, "pid": os.getpid(), "since": since}))
        file.flush()
        yield
        file.truncate(0)


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"{holder['command']} (pid {holder['pid']}, since {holder['since']}); wait for it or end it"
    except (ValueError, KeyError, TypeError):  # read in the moment between taking the lock and signing it
        return "one that has just started; try again"
