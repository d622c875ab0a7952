"""Stack files: read, edited with comments and order kept, and resolved with the machine's facts for an engine."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from infra import config
from infra.config import Settings
from operations.errors import OperationError


class StackFile:
    """`stacks/Pulumi.<stack>.yaml`: the desired state, with git as its history."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.stack = stack
        self.path = folder / f"Pulumi.{stack}.yaml"
        try:
            self._document = _yaml().load(self.path.read_text())
        except FileNotFoundError:
            stacks = sorted(path.name.split(".")[1] for path in folder.glob("Pulumi.*.yaml"))
            raise OperationError(
                f"stack {stack!r}: there is no {self.path.name} in {folder.name}/; there are: {', '.join(stacks)}"
            ) from None
        except (YAMLError, UnicodeDecodeError) as error:
            raise OperationError(f"{self.path.name}: not valid YAML: {error}") from None
        if not isinstance(self._document, CommentedMap) or not isinstance(self._document.get("config"), Mapping):
            raise OperationError(f"{self.path.name}: expected a mapping with the key 'config'")

    def settings(self, local: Mapping[str, Any] | None = None) -> Settings:
        """The typed settings. Raises infra.config.ConfigError with every problem of the file."""
        values = config.own_values(self._document["config"])
        return config.parse(values | ({"local": dict(local)} if local else {}))

    def services_of(self, model: str) -> list[str]:
        """The services that serve some version of the model."""
        services = self._document["config"].get(f"{config.PREFIX}services", {})
        return [name for name, entry in services.items() if entry.get("model", {}).get("name") == model]

    def set_model(self, service: str, *, name: str, version: str, sha256: str) -> bool:
        """Let `service` serve this version. False when it does so already. Raises OperationError."""
        services = self._document["config"][f"{config.PREFIX}services"]
        entry = services.get(service)
        if entry is None:
            raise OperationError(
                f"service {service!r}: not in {self.path.name}; there are: {', '.join(services)}"
            )
        if "model" not in entry:
            raise OperationError(f"service {service!r} in {self.path.name}: runs an image, it has no model to replace")
        wanted = {"name": name, "version": version, "sha256": sha256}
        if dict(entry["model"]) == wanted:
            return False
        entry["model"].update(wanted)
        return True

    def save(self) -> None:
        """Write the file back, whole or not at all."""
        write_atomically(self.path, self._dump(self._document))

    def resolve(self, local: Mapping[str, Any], target: Path) -> Path:
        """Write a copy that also holds the machine's facts, for an engine to read."""
        document = self._document.copy()
        document["config"] = self._document["config"] | {f"{config.PREFIX}local": dict(local)}
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, self._dump(document))
        return target

    @staticmethod
    def _dump(document: object) -> str:
        stream = io.StringIO()
        _yaml().dump(document, stream)
        return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file's content; a reader, or a crash, sees the old or the new and nothing between."""
    partial = path.with_name(f".{path.name}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
