"""Long-running processes of the platform: started once, found again by a later command, ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machine import cgroups, network
from machine.errors import MachineError
from machine.layout import Layout

_KILL_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Process:
    """What to run. A running process whose command differs from this one is replaced."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    in_namespace: bool = True


def _identity(pid: int) -> str | None:
    """A value that no other process ever has: ids are used again, also after the machine restarted."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    if state == "Z":
        return None
    start_ticks = fields[18]
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{start_ticks}"


def _pid_file(layout: Layout, name: str) -> Path:
    return layout.run / f"{name}.pid"


def log_file(layout: Layout, name: str) -> Path:
    return layout.logs / f"{name}.log"


def _record(layout: Layout, name: str) -> dict[str, object]:
    try:
        loaded = json.loads(_pid_file(layout, name).read_text())
    except (
        FileNotFoundError,
        ValueError,
    ):  # absent, or cut off by a crash: the process is then not ours to find
        return {}
    return loaded if isinstance(loaded, dict) else {}


def running(layout: Layout, name: str) -> int | None:
    """The process's id, or None when it does not run."""
    record = _record(layout, name)
    pid, identity = record.get("pid"), record.get("identity")
    # No identity: it had ended before it could be read.
    if isinstance(pid, int) and identity is not None and identity == _identity(pid):
        return pid
    return None


def names(layout: Layout) -> list[str]:
    """Every process that was started and not stopped, running or not."""
    return sorted(path.stem for path in layout.run.glob("*.pid"))


def start(layout: Layout, process: Process) -> bool:
    """Start the process unless it runs already with this very command. True when it was started."""
    command = (*(network.enter(layout) if process.in_namespace else ()), *process.command)
    if running(layout, process.name) is not None:
        if _record(layout, process.name).get("command") == list(command):
            return False
        stop(layout, process.name)
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    log_path = log_file(layout, process.name)
    if log_path.exists():
        log_path.replace(log_path.with_suffix(".log.1"))  # why the last one ended

    def enter() -> None:
        """Before exec: no child can escape the group, and no running process goes unrecorded."""
        cgroups.join(layout)
        pid = os.getpid()
        record = {"pid": pid, "identity": _identity(pid), "command": command}
        partial = layout.run / f"{process.name}.pid.partial"
        partial.write_text(json.dumps(record))
        partial.replace(_pid_file(layout, process.name))

    with log_path.open("wb") as log:
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "HOME": "/root"}
                | dict(process.environment),
                start_new_session=True,
                preexec_fn=enter,
            )
        except subprocess.SubprocessError as error:
            raise MachineError(
                f"{process.name}: could not join control group {layout.cgroup}: {error}"
            ) from None
    started.returncode = 0  # it outlives this command: nobody waits for it here
    return True


def stop(layout: Layout, name: str, *, timeout_seconds: float = 10) -> None:
    """SIGTERM, then SIGKILL after the time-out; returns when the process has ended."""
    pid = running(layout, name)
    if pid is not None:
        deadline = time.monotonic() + timeout_seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            while running(layout, name) is not None:
                _reap(pid)
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                if time.monotonic() > deadline + _KILL_SECONDS:
                    raise MachineError(f"{name} (pid {pid}): still there {_KILL_SECONDS} s after SIGKILL")
                time.sleep(0.02)
    _pid_file(layout, name).unlink(missing_ok=True)


def _reap(pid: int) -> None:
    # Our own child when the same command started it; otherwise init's.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def last_words(layout: Layout, name: str, *, lines: int = 5) -> str:
    """The end of the process's log."""
    try:
        text = log_file(layout, name).read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def require_running(layout: Layout, name: str) -> None:
    """Raise MachineError with the process's last words when it has ended."""
    if running(layout, name) is None:
        raise MachineError(
            f"{name} ended right after its start; its last words, from {log_file(layout, name)}:\n"
            + last_words(layout, name)
        )
