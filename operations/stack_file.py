"""Stack files: read, edited value by value, and resolved with the machine's facts for an engine."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from infra import config
from infra.config import Settings
from operations.errors import OperationError


class StackFile:
    """`stacks/Pulumi.<stack>.yaml`: the desired state, with git as its history."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.stack = stack
        self.path = folder / f"Pulumi.{stack}.yaml"
        try:
            self._text = self.path.read_bytes().decode()
            self._document = _yaml().load(self._text)
        except FileNotFoundError:
            stacks = sorted(path.stem.removeprefix("Pulumi.") for path in folder.glob("Pulumi.*.yaml"))
            raise OperationError(
                f"stack {stack!r}: there is no {self.path.name} in {folder.name}/;"
                f" there are: {', '.join(stacks)}"
            ) from None
        except OSError as error:
            raise OperationError(f"{self.path.name}: cannot be read: {error.strerror}") from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise OperationError(f"{self.path.name}: not valid YAML: {error}") from None
        if not isinstance(self._document, CommentedMap) or not isinstance(
            self._document.get("config"), Mapping
        ):
            raise OperationError(f"{self.path.name}: expected a mapping with the key 'config'")

    def settings(self, local: Mapping[str, Any] | None = None) -> Settings:
        """The typed settings. Raises infra.config.ConfigError with every problem of the file."""
        values = config.own_values(self._document["config"])
        return config.parse(values | ({"local": dict(local)} if local else {}))

    def services_of(self, model: str) -> list[str]:
        """The services that serve some version of the model. Raises infra.config.ConfigError."""
        services = self.settings().services.items()
        return [name for name, service in services if service.model and service.model.name == model]

    def set_model(self, service: str, *, name: str, version: str, sha256: str) -> bool:
        """Let `service` serve this version. False when it does so already.

        Raises OperationError, or infra.config.ConfigError when the file holds no settings.
        """
        services = self.settings().services
        if service not in services:
            raise OperationError(
                f"service {service!r}: not in {self.path.name}; there are: {', '.join(services)}"
            )
        current = services[service].model
        if current is None:
            raise OperationError(
                f"service {service!r} in {self.path.name}: runs an image, it has no model to replace"
            )
        wanted = {"name": name, "version": version, "sha256": sha256}
        if asdict(current) == wanted:
            return False
        try:
            path = ("config", f"{config.PREFIX}services", service, "model")
            self._text = _with_values(self._text, path, wanted)
        except KeyError as error:
            raise OperationError(
                f"service {service!r} in {self.path.name}: {error.args[0]!r} of its model is not written out"
                " there (a YAML merge, or JSON text?); write it out, so that it can be edited"
            ) from None
        self._document = _yaml().load(self._text)
        return True

    def save(self) -> None:
        """Write the file back, whole or not at all."""
        write_atomically(self.path, self._text)

    def resolve(self, local: Mapping[str, Any], target: Path) -> Path:
        """Write a copy that also holds the machine's facts, for an engine to read."""
        document = self._document.copy()
        document["config"] = self._document["config"] | {f"{config.PREFIX}local": dict(local)}
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = io.StringIO()
        _yaml().dump(document, stream)
        write_atomically(target, stream.getvalue())
        return target


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    return yaml


def _with_values(text: str, path: Sequence[str], values: Mapping[str, str]) -> str:
    """The YAML text with these values in the mapping at `path`; every other byte stays, unlike in a dump.

    Raises KeyError when a key is not literally there.
    """
    node = _yaml().compose(text)
    for key in path:
        node = _children(node)[key]
    children = _children(node)
    # From the end, so that the positions of those still to come hold.
    for key in sorted(values, key=lambda key: children[key].start_mark.index, reverse=True):
        child = children[key]
        if child.value != values[key]:
            written = _scalar(values[key], child)
            text = text[: child.start_mark.index] + written + text[child.end_mark.index :]
    return text


def _children(node: Node) -> dict[str, ScalarNode]:
    return {key.value: value for key, value in node.value} if isinstance(node, MappingNode) else {}


def _scalar(value: str, before: ScalarNode) -> str:
    """`value` in the quotes that were there, or in double ones where it would else not be read as text."""
    if before.style == "'":
        return f"'{value}'"
    if before.style is None and _yaml().load(value) == value:
        return value
    return json.dumps(value)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file's content; a reader, or a crash, sees the old or the new and nothing between.

    Raises OperationError.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OperationError(f"{path}: cannot be written: {error.strerror}") from None
