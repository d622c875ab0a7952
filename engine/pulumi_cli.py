"""The engine of record: the real Pulumi CLI, through its Automation API.

Own backend only where the user has none: a file backend in the state directory, with a passphrase made for it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pulumi.automation as auto
from pulumi.automation.errors import create_command_error

from engine import objects
from engine.plan import (
    SECRET,
    UNKNOWN,
    EngineError,
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
from engine.state import State
from engine.values import UNKNOWN_ON_THE_WIRE

_OPERATIONS = {
    "same": Operation.SAME,
    "create": Operation.CREATE,
    "import": Operation.CREATE,
    "update": Operation.UPDATE,
    "replace": Operation.REPLACE,
    "delete": Operation.DELETE,
}
"""Of the real engine's steps; the two halves of a replacement are left to the `replace` that goes with them."""


class PulumiEngine:
    name = "pulumi"

    def __init__(
        self,
        *,
        project_dir: Path,
        project: str,
        stack: str,
        config_file: Path,
        state_dir: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.project_dir = project_dir.resolve()
        self.project = project
        self.stack = stack
        self.config_file = config_file.resolve()
        self.state_dir = state_dir.resolve()
        self.environment = dict(environment or {})
        self.state = State(state_dir, engine=self.name, project=project, stack=stack)

    def preview(self) -> Preview:
        self.state.read()
        run = self._run(lambda stack, options: stack.preview(**options))
        return Preview(
            engine=self.name,
            project=self.project,
            stack=self.stack,
            changes=tuple(sorted(run.changes.values(), key=lambda change: change.urn)),
            outputs=run.outputs,
            messages=tuple(run.messages),
        )

    def up(self, report: Report) -> Result:
        with self.state.lock():
            record = self.state.read()
            self.state.write(outputs=record.outputs if record else {})
            run = self._run(lambda stack, options: stack.up(show_secrets=False, **options), report)
            self.state.write(outputs=run.outputs)
        return self._result(run)

    def destroy(self, report: Report) -> Result:
        with self.state.lock():
            self.state.read()
            # Without running the program: what goes is what the state knows.
            run = self._run(lambda stack, options: stack.destroy(show_secrets=False, **options), report)
            self.state.forget()
        return self._result(run)

    def _result(self, run: _Run) -> Result:
        return Result(
            engine=self.name,
            project=self.project,
            stack=self.stack,
            counts=count(change.operation for change in run.changes.values()),
            outputs=run.outputs,
            seconds=time.monotonic() - run.started,
            messages=tuple(run.messages),
        )

    def _run(
        self, action: Callable[[auto.Stack, dict[str, Any]], object], report: Report | None = None
    ) -> _Run:
        run = _Run(report)
        with self._explained(run):
            action(
                self._open(),
                {
                    "config_file": str(self.config_file),
                    "on_event": run.on_event,
                    "color": "never",
                    "suppress_progress": True,
                },
            )
        return run

    def _open(self) -> auto.Stack:
        environment = {
            # The program runs in this interpreter's environment, not in whichever python3 is first.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            # Stack files are resolved copies: the salt that `stack init` makes is not in them.
            "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "true",
            **self.environment,
        }
        own = self._own_backend()
        environment |= own
        command = _Cli()
        workspace = auto.LocalWorkspace(
            work_dir=str(self.project_dir), env_vars=environment, pulumi_command=command
        )
        try:
            stack = auto.Stack.select(self.stack, workspace)
        except auto.StackNotFoundError:
            self._create(environment, command)
            stack = auto.Stack.select(self.stack, workspace)
        if own:
            self._free_dead_lock(stack)
        return stack

    def _create(self, environment: dict[str, str], command: auto.PulumiCommand) -> None:
        # Elsewhere, because `stack init` writes its salt into the stack file beside the project file.
        with tempfile.TemporaryDirectory() as directory:
            settings = auto.ProjectSettings(name=self.project, runtime="python")
            workspace = auto.LocalWorkspace(
                work_dir=directory, env_vars=environment, project_settings=settings, pulumi_command=command
            )
            auto.Stack.create(self.stack, workspace)

    def _own_backend(self) -> dict[str, str]:
        """Environment of the file backend; empty when the user is logged in to one."""
        environment = {**os.environ, **self.environment}
        if environment.get("PULUMI_BACKEND_URL") or environment.get("PULUMI_ACCESS_TOKEN"):
            return {}
        home = Path(environment.get("PULUMI_HOME") or Path.home() / ".pulumi")
        try:
            if json.loads((home / "credentials.json").read_text()).get("current"):
                return {}
        except (OSError, ValueError):
            pass  # never logged in
        backend = self.state_dir / "pulumi"
        backend.mkdir(parents=True, exist_ok=True, mode=0o700)
        passphrase = self.state_dir / "passphrase"
        if not passphrase.exists():
            descriptor = os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(32))
        return {"PULUMI_BACKEND_URL": f"file://{backend}", "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase)}

    def _free_dead_lock(self, stack: auto.Stack) -> None:
        """A killed CLI leaves its lock; nobody frees it but us, and only when its process is gone."""
        locks = self.state_dir / "pulumi/.pulumi/locks/organization" / self.project / self.stack
        found = [json.loads(file.read_text()) for file in locks.glob("*.json")]
        for lock in found:
            if lock.get("hostname") != socket.gethostname() or Path(f"/proc/{lock.get('pid')}").exists():
                raise EngineError(
                    f"stack {self.stack} is being changed by process {lock.get('pid')} on {lock.get('hostname')} "
                    f"since {lock.get('timestamp')}: wait for it, or stop it"
                )
        if found:
            stack.cancel()

    @contextmanager
    def _explained(self, run: _Run) -> Iterator[None]:
        try:
            yield
        except auto.ConcurrentUpdateError as error:
            raise EngineError(
                f"stack {self.stack} is being changed by somebody else:\n{_last_lines(error)}"
            ) from None
        except auto.CommandError as error:
            errors = [message.text for message in run.messages if message.severity == "error"]
            text = "\n".join(dict.fromkeys(concise(text, self.project_dir) for text in errors))
            raise EngineError(text or _last_lines(error)) from None
        except auto.InvalidVersionError as error:
            raise EngineError(f"the Pulumi CLI on PATH cannot be used: {error}") from None
        except FileNotFoundError as error:
            raise EngineError(
                f"no Pulumi CLI on PATH ({error}): install it, or use --engine offline"
            ) from None


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
            elif event.diagnostic_event and event.diagnostic_event.severity != "debug":
                diagnostic = event.diagnostic_event
                text = re.sub(r"<\{%.*?%\}>", "", diagnostic.message).strip()
                severity = diagnostic.severity.partition("#")[0]
                if text and not diagnostic.ephemeral:
                    self.messages.append(Message(severity=severity, text=text, urn=diagnostic.urn or ""))

    def _step(self, step: auto.StepEventMetadata, status: Status) -> None:
        state = step.new or step.old
        if step.type == "pulumi:pulumi:Stack" and step.new and status is Status.DONE:
            self.outputs = masked(dict(step.new.outputs or {}))
        operation = _OPERATIONS.get(step.op)
        if operation is None or state is None or not state.custom or step.type.startswith("pulumi:"):
            return
        name = step.urn.rpartition("::")[2]
        if status is Status.STARTED:
            self._began[step.urn] = time.monotonic()
            self.changes[step.urn] = ResourceChange(
                urn=step.urn, type=step.type, name=name, operation=operation, changes=property_changes(step)
            )
        if self._report:
            self._report(
                ResourceEvent(
                    urn=step.urn,
                    type=step.type,
                    name=name,
                    operation=operation,
                    status=status,
                    seconds=time.monotonic() - self._began.get(step.urn, self.started),
                )
            )


class _Cli(auto.PulumiCommand):
    """The CLI in a session of its own, so that Ctrl-C reaches it exactly once; then it is left to finish."""

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], Any] | None = None,
        on_error: Callable[[str], Any] | None = None,
    ) -> auto.CommandResult:
        environment = {**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        interrupted = False
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [self.command, "--non-interactive", *args],
                cwd=cwd,
                env=environment,
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
        return objects.changes(
            objects.flatten(old) if old else {}, objects.flatten(new) if new else {}, hidden
        )
    outputs = masked(dict(step.old.outputs or {})) if step.old else {}
    before, after = {}, {}
    for path, difference in step.detailed_diff.items():
        was, now = _lookup(old if difference.input_diff else outputs, path), _lookup(new, path)
        if was is not None:
            before[path] = was
        if now is not None:
            after[path] = now
    return objects.changes(before, after, hidden)


def masked(tree: Any) -> Any:
    """The CLI blanks secrets itself; this keeps it so should a form slip through, and names unknowns as everywhere."""
    if isinstance(tree, dict):
        return (
            SECRET if "4dabf18193072939515e22adb298388d" in tree else {key: masked(tree[key]) for key in tree}
        )
    if isinstance(tree, list):
        return [masked(item) for item in tree]
    return UNKNOWN if tree == UNKNOWN_ON_THE_WIRE else tree


def _lookup(tree: Any, path: str) -> Any:
    """The value at Pulumi's `spec.ports[0].name` or `metadata.annotations["a.b/c"]`; None where there is none."""
    for quoted, index, key in re.findall(r'\["([^"]*)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        if tree == SECRET:
            return SECRET
        if isinstance(tree, dict):
            tree = tree.get(quoted or key)
        elif isinstance(tree, list) and index and int(index) < len(tree):
            tree = tree[int(index)]
        else:
            return None
    return tree


def concise(message: str, project_dir: Path) -> str:
    """A diagnostic without its Python traceback: the user's own last line and the error."""
    if "Traceback (most recent call last)" not in message:
        return message
    frames = re.findall(r'File "([^"]+)", line (\d+)', message)
    users = [
        (os.path.relpath(project_dir / file, project_dir), line)
        for file, line in frames
        if (project_dir / file).is_relative_to(project_dir) and "site-packages" not in file
    ]
    # Code and its markers are indented; what follows the last such line is the error.
    lines = message.rstrip().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith((" ", "Traceback")))
    place = f"{users[-1][0]}:{users[-1][1]}: " if users else ""
    return place + "\n".join(lines[last + 1 :])


def _last_lines(error: auto.CommandError) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n".join(line.strip() for line in lines[-5:])
