"""Evaluates a program: a child process runs it, a monitor on loopback answers it.

No state, no network but loopback. The `execute` that is handed in decides what a registered resource becomes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.plan import EngineError, Message, Plan
from engine.program import PARALLEL, Execute, Program, declare, read_config


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
                # Left open: when this process is killed it closes, and that ends the child.
                stdin.write(json.dumps(options).encode() + b"\n")
                stdin.flush()
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
