"""Runs the Pulumi program for real: the Pulumi CLI where there is one, else the offline engine.

This room turns a program and a resolved stack file into a plan, a preview or running resources, and knows
nothing of models, services or the machine. It is not for deciding what is provisioned (infra/), not for what
is done to a running platform (operations/), and its offline engine is not for applying clouds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    stack_references: Mapping[str, Mapping[str, Any]] | None = None,
) -> Engine:
    """The named engine; for None the Pulumi CLI if it is on PATH, else the offline engine.

    `config_file` is a resolved Pulumi.<stack>.yaml; `environment` is added to the process's own (KUBECONFIG).
    """
    # Late: each of these costs imports that the others, and `--help`, must not pay.
    from engine.program import Program

    program = Program(
        directory=project_dir.resolve(),
        project=project,
        stack=stack,
        config_file=config_file.resolve(),
        environment=environment or {},
        stack_references=stack_references or {},
    )
    match name or ("pulumi" if shutil.which("pulumi") else "offline"):
        case "pulumi":
            from engine.pulumi_cli import PulumiEngine

            return PulumiEngine(program, state_dir)
        case "offline":
            from engine.offline import OfflineEngine

            return OfflineEngine(program, state_dir)
    raise EngineError(f"engine {name!r} does not exist: choose pulumi or offline")
