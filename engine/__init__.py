"""Runs the Pulumi program for real: the Pulumi CLI where there is one, else the offline engine.

This room turns a program and a resolved stack file into a plan, a preview or running resources, and knows nothing
of models, services or the machine. It is not for deciding what is provisioned (infra/), for what is done to a
running platform (operations/), nor, in the offline engine, for clouds: those it plans and refuses to apply.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.plan import (
    Engine,
    EngineError,
    Message,
    Operation,
    Plan,
    Preview,
    PropertyChange,
    Report,
    Resource,
    ResourceChange,
    ResourceEvent,
    Result,
    Status,
    to_json,
)
from engine.state import recorded_engine

__all__ = [
    "Engine",
    "EngineError",
    "Message",
    "Operation",
    "Plan",
    "Preview",
    "PropertyChange",
    "Report",
    "Resource",
    "ResourceChange",
    "ResourceEvent",
    "Result",
    "Status",
    "recorded_engine",
    "select_engine",
    "to_json",
]


def select_engine(
    name: str | None = None,
    *,
    project_dir: Path,
    project: str,
    stack: str,
    config_file: Path,
    state_dir: Path,
    environment: Mapping[str, str] | None = None,
) -> Engine:
    """The named engine; for None the Pulumi CLI if it is on PATH, else the offline engine."""
    if name is None:
        name = "pulumi" if shutil.which("pulumi") else "offline"
    engine: Callable[..., Engine]
    match name:  # imported late: each costs what the other, and `--help`, must not pay
        case "pulumi":
            from engine.pulumi_cli import PulumiEngine as engine
        case "offline":
            from engine.offline import OfflineEngine as engine
        case _:
            raise EngineError(f"engine {name!r} does not exist: choose pulumi or offline")
    return engine(
        project_dir=project_dir,
        project=project,
        stack=stack,
        config_file=config_file,
        state_dir=state_dir,
        environment=environment,
    )
