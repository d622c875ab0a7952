"""What is run, and the terms of running it: a program, a registration on its way, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.plan import EngineError, Resource

# A registration occupies a thread at either end until its resource is ready.
PARALLEL = 64


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is run: a directory with Pulumi.yaml and __main__.py, for a stack and its resolved stack file."""

    directory: Path
    project: str
    stack: str
    config_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stack_references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Outputs of other stacks by full name, `organization/project/stack`; those not here are unknown."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A resource on its way into existence. Secrets are still readable in `inputs`: never keep or show it."""

    resource: Resource
    inputs: dict[str, Any]
    timeout_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the program gets back. An empty id is an unknown one."""

    id: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


Execute = Callable[[Registration], Outcome]


def declare(registration: Registration) -> Outcome:
    """The execute of a plan: nothing is known of a resource but what the program says itself."""
    return Outcome(outputs=registration.inputs)


def read_config(program: Program) -> dict[str, str]:
    """PULUMI_CONFIG: the project's values and the stack file's, {namespace:key: string}; objects as JSON."""
    found: dict[str, Any] = {}
    for key, declared in (_yaml(program.directory / "Pulumi.yaml").get("config") or {}).items():
        if not isinstance(declared, dict):
            found[key] = declared
        elif "value" in declared or "default" in declared:
            found[key] = declared.get("value", declared.get("default"))
    found.update(_yaml(program.config_file).get("config") or {})
    config = {}
    for key, value in found.items():
        if isinstance(value, dict) and "secure" in value:
            raise EngineError(
                f"{program.config_file}: {key} is encrypted, which only the Pulumi CLI can read:"
                " refer to the secret by name, or use --engine pulumi"
            )
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        config[key if ":" in key else f"{program.project}:{key}"] = text
    return config


def _yaml(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise EngineError(f"{file}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise EngineError(f"{file}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise EngineError(f"{file}: must be a mapping, not {type(document).__name__}")
    return document
