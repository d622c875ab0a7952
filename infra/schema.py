"""Reads untyped configuration along annotated dataclasses and collects every problem on the way.

It is for shapes: keys, types, patterns and ranges of single values, and the list of all keys, which the
documentation is tested against. It is not for rules between values: config.py has those.

A setting is a field `Annotated[<type>, <node>]`; the node reads it. Its key is the field's name in camelCase.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final, Literal, Protocol, get_args, get_type_hints


class Marker(Enum):
    INVALID = "invalid"


INVALID: Final = Marker.INVALID
"""Stands for a value whose problem has been reported."""


class RefusedError(Exception):
    """A value is not allowed. `fix` is better advice than the node's example, when there is one."""

    def __init__(self, fix: str | None = None) -> None:
        super().__init__(fix)
        self.fix = fix


class Node(Protocol):
    """What one place of the configuration may hold."""

    @property
    def allowed(self) -> str: ...

    def read(self, value: object, path: str, problems: list[str]) -> Any:
        """The value in its own type; INVALID, and a line in `problems`, when it is not allowed."""


@dataclass(frozen=True, kw_only=True)
class DefaultText:
    """What holds for an absent key, in words, when the default depends on other keys; the key is optional."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Leaf:
    allowed: str
    example: str
    accept: Callable[[object], object]
    hidden: bool = False
    """The value may be a secret by mistake: no message shows it."""

    def read(self, value: object, path: str, problems: list[str]) -> Any:
        try:
            return self.accept(value)
        except RefusedError as refused:
            fix = refused.fix or f"write for example {self.example}"
            finding = "is refused" if self.hidden else f"is {_shown(value)}"
            problems.append(problem(path, finding, self.allowed, fix))
            return INVALID


@dataclass(frozen=True, kw_only=True)
class Record:
    """A mapping with known keys. A draft stays a dict, by field name, for the rules between its values."""

    of: type
    draft: bool = False

    @property
    def allowed(self) -> str:
        return f"a mapping with the keys {', '.join(setting.key for setting in _settings(self.of))}"

    def read(self, value: object, path: str, problems: list[str]) -> Any:
        entries = _mapping(self, value, path, problems)
        if entries is INVALID:
            return INVALID
        settings = {setting.key: setting for setting in _settings(self.of)}
        for key in entries:
            if key not in settings:
                problems.append(_unknown(_join(path, key), key, settings))
        values: dict[str, Any] = {}
        for key, setting in settings.items():
            if key in entries:
                values[setting.field] = setting.node.read(entries[key], _join(path, key), problems)
            elif setting.required:
                values[setting.field] = INVALID
                problems.append(missing(_join(path, key), setting.node))
        if self.draft:
            return values
        return INVALID if INVALID in values.values() else self.of(**values)


@dataclass(frozen=True, kw_only=True)
class MapOf:
    """A mapping whose keys the user chooses; `placeholder` stands for one in the documentation.

    Entries with a problem are left out of the result, so that the rules between values still see the others.
    """

    placeholder: str
    key: Leaf
    value: Node

    @property
    def allowed(self) -> str:
        return f"a mapping; each {self.placeholder} is {self.key.allowed}"

    def read(self, value: object, path: str, problems: list[str]) -> Any:
        entries = _mapping(self, value, path, problems)
        if entries is INVALID:
            return INVALID
        result: dict[str, Any] = {}
        # Sorted, because the Pulumi CLI hands objects on with sorted keys: both engines see one order.
        for key in sorted(entries, key=str):
            name = self.key.read(key, f"the name {_join(path, key)}", problems)
            item = self.value.read(entries[key], _join(path, key), problems)
            if name is not INVALID and item is not INVALID:
                result[name] = item
        return result


@dataclass(frozen=True, kw_only=True)
class ListOf:
    item: Leaf

    @property
    def allowed(self) -> str:
        return f"a list of one or more: {self.item.allowed}"

    def read(self, value: object, path: str, problems: list[str]) -> Any:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            fix = f"write for example [{self.item.example}]"
            problems.append(problem(path, f"is {_shown(value)}", self.allowed, fix))
            return INVALID
        items = [self.item.read(item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
        return INVALID if INVALID in items else tuple(items)


def choice(vocabulary: type[StrEnum]) -> Leaf:
    members = [member.value for member in vocabulary]

    def accept(value: object) -> StrEnum:
        if not isinstance(value, str) or value not in members:
            near = difflib.get_close_matches(str(value), members, n=1)
            raise RefusedError(f"did you mean {near[0]}?" if near else None)
        return vocabulary(value)

    return Leaf(allowed=" or ".join(members), example=members[0], accept=accept)


def text(
    pattern: str,
    *,
    allowed: str,
    example: str,
    hidden: bool = False,
    advice: Callable[[str], str | None] = lambda _value: None,
) -> Leaf:
    """A string that matches `pattern` whole; `advice` may know a better fix than the example."""
    compiled = re.compile(pattern)

    def accept(value: object) -> str:
        if isinstance(value, (bool, int, float)):
            raise RefusedError("put it in quotes: YAML reads it as a number or a boolean")
        if not isinstance(value, str):
            raise RefusedError
        if not compiled.fullmatch(value):
            raise RefusedError(advice(value))
        return value

    return Leaf(allowed=allowed, example=f'"{example}"', accept=accept, hidden=hidden)


def integer(low: int, high: int | None = None, *, example: int) -> Leaf:
    def accept(value: object) -> int:
        if isinstance(value, str) and value.isdecimal():
            raise RefusedError("write the number without quotes")
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError
        if value < low or (high is not None and value > high):
            raise RefusedError
        return value

    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"
    return Leaf(allowed=allowed, example=str(example), accept=accept)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of the configuration, as the documentation shows it."""

    path: str
    allowed: str
    default: str


def keys(of: type, prefix: str = "") -> Iterator[Key]:
    """Every key below a dataclass, depth first, in the order of its fields."""
    for setting in _settings(of):
        path = prefix + setting.key
        yield Key(path=path, allowed=setting.node.allowed, default=setting.default)
        node = setting.node
        if isinstance(node, MapOf):
            path, node = f"{path}.<{node.placeholder}>", node.value
            yield Key(path=path, allowed=node.allowed, default="none")
        if isinstance(node, Record):
            yield from keys(node.of, f"{path}.")


def problem(path: str, finding: str, allowed: str, fix: str) -> str:
    return f"{path} {finding}; allowed: {allowed}; fix: {fix}"


def missing(path: str, node: Node) -> str:
    example = f", for example {node.example}" if isinstance(node, Leaf) else ""
    return problem(path, "is missing", node.allowed, f"add it{example}")


@dataclass(frozen=True, kw_only=True)
class _Setting:
    field: str
    key: str
    node: Node
    required: bool
    default: str


@functools.cache
def _settings(of: type) -> tuple[_Setting, ...]:
    """The annotated fields of a dataclass. A field without a node is not the user's to set."""
    hints = get_type_hints(of, include_extras=True)
    return tuple(
        _setting(field, get_args(hints[field.name])[1:])
        for field in dataclasses.fields(of)
        if hasattr(hints[field.name], "__metadata__")
    )


def _setting(field: dataclasses.Field[Any], metadata: tuple[Any, ...]) -> _Setting:
    node, *words = metadata
    first, *rest = field.name.split("_")
    if words:
        default = words[0].text
    elif field.default is not dataclasses.MISSING:
        default = "none" if field.default in (None, ()) else str(field.default)
    else:
        default = "none" if field.default_factory is not dataclasses.MISSING else "required"
    return _Setting(
        field=field.name,
        key=first + "".join(part.capitalize() for part in rest),
        node=node,
        required=default == "required",
        default=default,
    )


def _mapping(
    node: Node, value: object, path: str, problems: list[str]
) -> Mapping[Any, object] | Literal[Marker.INVALID]:
    if isinstance(value, Mapping):
        return value
    # Text is not shown: where a mapping belongs it is often a secret, in place of the reference to it.
    finding = "is text" if isinstance(value, str) else f"is {_shown(value)}"
    problems.append(problem(path, finding, node.allowed, "write `key: value` lines below it, or {} for none"))
    return INVALID


def _unknown(path: str, key: object, settings: Mapping[str, _Setting]) -> str:
    near = difflib.get_close_matches(str(key), settings, n=1)
    fix = f"did you mean {near[0]}?" if near else "remove it"
    return problem(path, "is not a known key", ", ".join(settings), fix)


def _join(path: str, key: object) -> str:
    return f"{path}{key}" if not path or path.endswith(":") else f"{path}.{key}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= 80 else f"{written[:77]}..."
