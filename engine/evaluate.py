"""Evaluates a program: a child process runs it, a monitor on loopback answers it.

No state, no network but loopback. The `execute` that is handed in decides what a registered resource becomes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.plan import EngineError, Message, Plan, Resource

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


class Child:
    """A process that has loaded the SDK, or is about to, and waits to be told to run its program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.config = read_config(program)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        environment = {
            **os.environ,
            **program.environment,
            "PULUMI_CONFIG": json.dumps(self.config),
            "PULUMI_CONFIG_SECRET_KEYS": "[]",
            "no_grpc_proxy": "127.0.0.1",  # a proxy has no business on loopback
        }
        # -P keeps this package's modules from being importable by their bare names. A session of its own:
        # Ctrl-C is for the parent, which stops waiting in an orderly way.
        self._process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("run_program.py")],
            cwd=program.directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._output.close()

    def run(self, options: Mapping[str, Any]) -> tuple[int, str]:
        """Runs the program to its end; its exit status and everything it printed."""
        if stdin := self._process.stdin:
            with suppress(BrokenPipeError):  # it ended early, and its output says why
                stdin.write(json.dumps(options).encode() + b"\n")
                stdin.close()
        status = self._process.wait()
        self._output.seek(0)
        return status, self._output.read().decode(errors="replace").strip()


def evaluate(child: Child, *, dry_run: bool, execute: Execute = declare) -> Plan:
    """Runs the child's program. Raises EngineError with what the program, or `execute`, said."""
    # Late, so that the child is already starting while this process pays for the same import.
    from engine.monitor import STACK_TYPE, Monitor, serve

    program = child.program
    monitor = Monitor(program=program, config=child.config, dry_run=dry_run, execute=execute)
    with serve(monitor) as address:
        options = {"project": program.project, "stack": program.stack, "organization": "organization"}
        addresses = {"monitor_address": address, "engine_address": address}
        status, printed = child.run({**options, **addresses, "preview": dry_run, "parallel": PARALLEL})
    errors = [message.text for message in monitor.messages if message.severity == "error"]
    if status and not errors:
        errors = [f"the program exited with status {status}", *printed.splitlines()[-5:]]
    # When a registration failed, the program ended with what it was told: that would repeat the cause.
    if errors := monitor.failures or errors:
        raise EngineError(monitor.scrub("\n".join(errors)))
    said = [Message(severity="info", text=monitor.scrub(line)) for line in printed.splitlines()]
    # Registration is concurrent; two plans of one program must be equal.
    resources = sorted(monitor.resources.values(), key=lambda resource: resource.urn)
    return Plan(
        project=program.project,
        stack=program.stack,
        resources=tuple(resources),
        outputs=next((it.outputs for it in resources if it.type == STACK_TYPE), {}),
        messages=(*monitor.messages, *said),
    )


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
