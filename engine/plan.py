"""What an engine says: the declared resource graph, changes, events and results.

Plain frozen data that turns into JSON. A Pulumi secret is masked before it gets here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Protocol, TypedDict

SCHEMA_VERSION = 1
SECRET = "[secret]"  # noqa: S105
UNKNOWN = "[unknown]"


class EngineError(RuntimeError):
    """Something the user can act on, in one message."""


class Operation(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    SAME = "same"


class Status(StrEnum):
    STARTED = "started"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """A line the program logged or printed. Severity is info, warning or error."""

    severity: str
    text: str
    urn: str = ""


class Identity(TypedDict):
    """What a resource, its changes and its events have in common."""

    urn: str
    type: str
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resource:
    """One resource as the program registered it: secrets read [secret], unknowns [unknown]."""

    urn: str
    type: str
    name: str
    custom: bool
    parent: str = ""
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dependencies: tuple[str, ...] = ()
    property_dependencies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    provider: str = ""
    """URN of the explicit provider, the inherited one included."""
    protect: bool = False
    retain_on_delete: bool = False
    aliases: tuple[str, ...] = ()
    ignore_changes: tuple[str, ...] = ()
    read: bool = False
    """Looked up, not managed (`Resource.get`, StackReference)."""

    @property
    def identity(self) -> Identity:
        return Identity(urn=self.urn, type=self.type, name=self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a program declares, in the order of registration, with the stack's outputs."""

    project: str
    stack: str
    resources: tuple[Resource, ...]
    outputs: Mapping[str, Any]
    messages: tuple[Message, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PropertyChange:
    """One property, `spec.template.spec.containers[serve].image`; None on a side means absent there."""

    path: str
    old: Any = None
    new: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourceChange:
    urn: str
    type: str
    name: str
    operation: Operation
    changes: tuple[PropertyChange, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    """What `up` would do to managed resources; components, providers and the stack itself are bookkeeping."""

    engine: str
    project: str
    stack: str
    changes: tuple[ResourceChange, ...]
    outputs: Mapping[str, Any]
    messages: tuple[Message, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        return count(change.operation for change in self.changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResourceEvent:
    """Progress of one resource; `message` says what it waits for or why it failed."""

    urn: str
    type: str
    name: str
    operation: Operation
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    engine: str
    project: str
    stack: str
    counts: Mapping[str, int]
    outputs: Mapping[str, Any]
    seconds: float
    messages: tuple[Message, ...] = ()

    @property
    def changed(self) -> int:
        return sum(number for operation, number in self.counts.items() if operation != Operation.SAME)


Report = Callable[[ResourceEvent], None]
"""Called from several threads, but never from two at once."""


class Engine(Protocol):
    """A way to bring a stack up. Every method raises EngineError with one message."""

    def check(self) -> None:
        """Raises when this engine cannot work, or the stack was brought up by the other; changes nothing."""

    def preview(self) -> Preview: ...

    def up(self, report: Report) -> Result: ...

    def destroy(self, report: Report) -> Result: ...


def count(operations: Iterable[Operation]) -> dict[str, int]:
    """{operation: how many}, only those that occur, in the order of Operation."""
    found = list(operations)
    return {str(operation): found.count(operation) for operation in Operation if operation in found}


def to_json(document: Plan | Preview | Result) -> dict[str, Any]:
    """The document as JSON data, with its kind and the schema's version. Enums are their values."""
    data = dataclasses.asdict(document)
    if isinstance(document, Preview):
        data["counts"] = document.counts
    return {"schema": SCHEMA_VERSION, "kind": type(document).__name__.lower(), **data}
