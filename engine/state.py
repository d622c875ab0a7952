"""What a machine remembers about a stack: one JSON file, and who is working on it right now."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.plan import EngineError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The last `up`. Secret outputs are masked."""

    engine: str
    project: str
    stack: str
    context: str | None = None
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objects: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """By object: its depth among the dependencies, and the paths that held secrets."""


class State:
    def __init__(self, directory: Path, *, engine: str, project: str, stack: str) -> None:
        self._engine, self._project, self._stack = engine, project, stack
        self._file = _file(directory, project, stack)

    def read(self) -> Record | None:
        """The record of this stack, None if it is not up. Refuses one that another engine wrote."""
        try:
            record = Record(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise EngineError(
                f"{self._file} is damaged ({error}): delete it, and the stack's objects"
            ) from None
        if record.engine != self._engine:
            raise EngineError(
                f"stack {self._stack} was brought up by the {record.engine} engine, and this one does not"
                f" know it: run `maas down {self._stack}` first, or stay with --engine {record.engine}"
            )
        return record

    def write(self, **fields: Any) -> None:
        record = Record(engine=self._engine, project=self._project, stack=self._stack, **fields)
        # mkstemp creates it 0600, and the rename makes it appear whole or not at all.
        descriptor, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=self._file.name)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dataclasses.asdict(record), file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self._file)

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while something changes the stack. The system frees it when its holder dies."""
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._file.with_suffix(".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise EngineError(
                    f"stack {self._stack} is being changed by process {holder}: wait for it, or stop it"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield


def recorded_engine(state_dir: Path, *, project: str, stack: str) -> str | None:
    """Which engine brought the stack up; None when it is not up."""
    try:
        return str(json.loads(_file(state_dir, project, stack).read_text())["engine"])
    except (OSError, ValueError, KeyError):
        return None


def _file(directory: Path, project: str, stack: str) -> Path:
    return directory / f"{project}.{stack}.json"
