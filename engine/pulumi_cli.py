"""The engine of record: the real Pulumi CLI, through its Automation API.

With a backend of its own only where the user has none: files in the state directory, under a passphrase.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pulumi.automation as auto
from pulumi.automation.errors import create_command_error

from engine import objects
from engine.plan import (
    SECRET,
    UNKNOWN,
    EngineError,
    Identity,
    Message,
    Operation,
    Preview,
    PropertyChange,
    Report,
    ResourceChange,
    ResourceEvent,
    Result,
    Status,
    count,
)
from engine.program import Program
from engine.state import State
from engine.values import SIGNATURE, UNKNOWN_ON_THE_WIRE

# The SDK warns on stderr about an event stream that ends early; the run's own error says more.
warnings.filterwarnings("ignore", "Error in event stream", UserWarning)

_OPERATIONS = {
    "same": Operation.SAME,
    "create": Operation.CREATE,
    "import": Operation.CREATE,
    "update": Operation.UPDATE,
    "replace": Operation.REPLACE,
    "create-replacement": Operation.REPLACE,
    "delete-replaced": Operation.REPLACE,
    "delete": Operation.DELETE,
}
_HALVES = {"create-replacement", "delete-replaced"}
"""Where the time of a replacement goes; its changes are those of the `replace` that goes with them."""


class PulumiEngine:
    name = "pulumi"

    def __init__(self, program: Program, state_dir: Path) -> None:
        self.program = program
        self.state = State(state_dir, engine=self.name, project=program.project, stack=program.stack)
        self._directory = state_dir.resolve()

    def check(self) -> None:
        self.state.read()
        if shutil.which("pulumi") is None:
            raise EngineError(
                "engine pulumi: there is no pulumi on PATH; install it, or use --engine offline"
            )

    def preview(self) -> Preview:
        self.state.read()
        run = self._run(lambda stack, options: stack.preview(**options))
        return Preview(
            engine=self.name,
            project=self.program.project,
            stack=self.program.stack,
            changes=tuple(sorted(run.changes.values(), key=lambda change: change.urn)),
            outputs=run.outputs,
            messages=tuple(run.messages),
        )

    def up(self, report: Report) -> Result:
        with self.state.lock():
            record = self.state.read()
            # Before the first resource exists: whatever happens next, the other engine will know.
            self.state.write(outputs=record.outputs if record else {})
            run = self._run(lambda stack, options: stack.up(show_secrets=False, **options), report)
            self.state.write(outputs=run.outputs)
        return self._result(run)

    def destroy(self, report: Report) -> Result:
        with self.state.lock():
            self.state.read()
            run = self._run(lambda stack, options: stack.destroy(show_secrets=False, **options), report)
            self.state.forget()
        return self._result(run)

    def _result(self, run: _Run) -> Result:
        return Result(
            engine=self.name,
            project=self.program.project,
            stack=self.program.stack,
            counts=count(change.operation for change in run.changes.values()),
            outputs=run.outputs,
            seconds=time.monotonic() - run.started,
            messages=tuple(run.messages),
        )

    def _run(
        self, action: Callable[[auto.Stack, dict[str, Any]], object], report: Report | None = None
    ) -> _Run:
        run = _Run(report)
        options = {"config_file": str(self.program.config_file), "on_event": run.on_event}
        try:
            action(self._open(), {**options, "color": "never", "suppress_progress": True})
        except auto.ConcurrentUpdateError as error:
            raise EngineError(f"stack {self.program.stack} is being changed:\n{_last_lines(error)}") from None
        except auto.CommandError as error:
            said = [it.text for it in run.messages if it.severity == "error" and it.text != "update failed"]
            text = "\n".join(dict.fromkeys(concise(it, self.program.directory) for it in said))
            raise EngineError(text or _last_lines(error)) from None
        except (auto.InvalidVersionError, FileNotFoundError) as error:
            raise EngineError(f"no usable Pulumi CLI on PATH, or use --engine offline: {error}") from None
        return run

    def _open(self) -> auto.Stack:
        program, command, own = self.program, _Cli(), self._own_backend()
        environment = {
            # The program runs in this interpreter's environment, not in whichever python3 comes first.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            # Stack files are resolved copies: the salt that `stack init` makes is not in them.
            "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "true",
            **program.environment,
            **own,
        }
        workspace = auto.LocalWorkspace(
            work_dir=str(program.directory), env_vars=environment, pulumi_command=command
        )
        try:
            stack = auto.Stack.select(program.stack, workspace)
        except auto.StackNotFoundError:
            # Made elsewhere: `stack init` writes its salt into the stack file that belongs to the project.
            with tempfile.TemporaryDirectory() as directory:
                settings = auto.ProjectSettings(name=program.project, runtime="python")
                empty = auto.LocalWorkspace(
                    work_dir=directory,
                    env_vars=environment,
                    project_settings=settings,
                    pulumi_command=command,
                )
                auto.Stack.create(program.stack, empty)
            stack = auto.Stack.select(program.stack, workspace)
        if own:
            self._free_dead_locks(stack)
        return stack

    def _own_backend(self) -> dict[str, str]:
        """Environment of the file backend; empty when the user is logged in to one."""
        environment = {**os.environ, **self.program.environment}
        if environment.get("PULUMI_BACKEND_URL") or environment.get("PULUMI_ACCESS_TOKEN"):
            return {}
        credentials = Path(environment.get("PULUMI_HOME") or Path.home() / ".pulumi") / "credentials.json"
        if credentials.exists() and json.loads(credentials.read_text()).get("current"):
            return {}
        backend, passphrase = self._directory / "pulumi", self._directory / "passphrase"
        backend.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not passphrase.exists():
            passphrase.touch(mode=0o600)
            passphrase.write_text(secrets.token_urlsafe(32))
        return {"PULUMI_BACKEND_URL": f"file://{backend}", "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase)}

    def _free_dead_locks(self, stack: auto.Stack) -> None:
        """A killed CLI leaves its lock; it is freed only when its process is gone."""
        project, name = self.program.project, self.program.stack
        locks = self._directory / "pulumi/.pulumi/locks/organization" / project / name
        found = [json.loads(file.read_text()) for file in locks.glob("*.json")]
        for lock in found:
            if lock["hostname"] != socket.gethostname() or Path(f"/proc/{lock['pid']}").exists():
                holder = f"process {lock['pid']} on {lock['hostname']}, since {lock['timestamp']}"
                raise EngineError(f"stack {name} is being changed by {holder}: wait for it, or stop it")
        if found:
            stack.cancel()


class _Run:
    """What one run of the CLI said, collected from its event stream."""

    def __init__(self, report: Report | None) -> None:
        self.started = time.monotonic()
        self.changes: dict[str, ResourceChange] = {}
        self.outputs: dict[str, Any] = {}
        self.messages: list[Message] = []
        self._report = report
        self._began: dict[str, float] = {}
        self._lock = threading.Lock()

    def on_event(self, event: auto.EngineEvent) -> None:
        with self._lock:
            if event.resource_pre_event:
                self._step(event.resource_pre_event.metadata, Status.STARTED)
            elif event.res_outputs_event:
                self._step(event.res_outputs_event.metadata, Status.DONE)
            elif event.res_op_failed_event:
                self._step(event.res_op_failed_event.metadata, Status.FAILED)
            elif (said := event.diagnostic_event) and said.severity != "debug" and not said.ephemeral:
                text = re.sub(r"<\{%.*?%\}>", "", said.message).strip()
                severity = said.severity.partition("#")[0]
                self.messages.append(Message(severity=severity, text=text, urn=said.urn or ""))

    def _step(self, step: auto.StepEventMetadata, status: Status) -> None:
        if step.type == "pulumi:pulumi:Stack" and step.new and status is Status.DONE:
            self.outputs = masked(dict(step.new.outputs or {}))
        state, operation = step.new or step.old, _OPERATIONS.get(step.op)
        if operation is None or not (state and state.custom) or step.type.startswith("pulumi:"):
            return
        identity = Identity(urn=step.urn, type=step.type, name=step.urn.rpartition("::")[2])
        if status is Status.STARTED:
            self._began[step.urn] = time.monotonic()
            if step.op not in _HALVES:
                changes = property_changes(step)
                self.changes[step.urn] = ResourceChange(**identity, operation=operation, changes=changes)
        if self._report:
            seconds = time.monotonic() - self._began.get(step.urn, self.started)
            self._report(ResourceEvent(**identity, operation=operation, status=status, seconds=seconds))


class _Cli(auto.PulumiCommand):
    """The CLI in a session of its own, so that Ctrl-C reaches it exactly once; then it is left to finish."""

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: object = None,  # noqa: ARG002 (events are read instead)
        on_error: object = None,  # noqa: ARG002
    ) -> auto.CommandResult:
        interrupted = False
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [self.command, "--non-interactive", *args],
                cwd=cwd,
                env={**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            while process.returncode is None:
                try:
                    process.wait()
                except KeyboardInterrupt:
                    if not interrupted:
                        process.send_signal(signal.SIGINT)
                    interrupted = True
            out.seek(0)
            err.seek(0)
            result = auto.CommandResult(out.read(), err.read(), process.returncode)
        if interrupted:
            raise KeyboardInterrupt
        if result.code < 0:
            raise EngineError(f"the Pulumi CLI was ended by {signal.Signals(-result.code).name}")
        if result.code:
            raise create_command_error(result)
        return result


def property_changes(step: auto.StepEventMetadata) -> tuple[PropertyChange, ...]:
    """A step's properties, from the provider's detailed diff where there is one."""
    old, new = (masked(dict(state.inputs or {})) if state else {} for state in (step.old, step.new))
    hidden = objects.secret_paths(new or old)
    if step.op in ("same", "delete"):
        return ()
    if not step.detailed_diff:
        return objects.changes(objects.flatten(old), objects.flatten(new), hidden)
    outputs = masked(dict(step.old.outputs or {})) if step.old else {}
    return tuple(
        objects.change(path, _lookup(old if it.input_diff else outputs, path), _lookup(new, path), hidden)
        for path, it in sorted(step.detailed_diff.items())
    )


def masked(tree: Any) -> Any:
    """The CLI blanks secrets itself; this holds should one slip through. Unknowns get our name."""
    if isinstance(tree, dict):
        return SECRET if SIGNATURE in tree else {key: masked(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [masked(value) for value in tree]
    return UNKNOWN if tree == UNKNOWN_ON_THE_WIRE else tree


def _lookup(tree: Any, path: str) -> Any:
    """The value at Pulumi's `spec.ports[0].name` or `metadata.labels["a.b/c"]`; None where there is none."""
    for quoted, index, key in re.findall(r'\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        if isinstance(tree, dict):
            tree = tree.get(quoted or key)
        elif isinstance(tree, list) and index and int(index) < len(tree):
            tree = tree[int(index)]
        else:
            return SECRET if tree == SECRET else None
    return tree


def concise(message: str, directory: Path) -> str:
    """A diagnostic without its Python traceback: the user's own last line and the error."""
    if "Traceback (most recent call last)" not in message:
        return message
    frames = [(directory / file, line) for file, line in re.findall(r'File "([^"]+)", line (\d+)', message)]
    users = [
        f"{file.relative_to(directory)}:{line}: "
        for file, line in frames
        if file.is_relative_to(directory) and "site-packages" not in file.parts
    ]
    # Frames are indented; what follows the last of them is the error.
    lines = message.splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith((" ", "Traceback")))
    return (users[-1] if users else "") + "\n".join(lines[last + 1 :])


def _last_lines(error: auto.CommandError) -> str:
    return "\n".join([line.strip() for line in str(error).splitlines() if line.strip()][-5:])
