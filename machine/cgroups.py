"""The platform's own control group: whatever it starts, and all that these start, can be found and ended.

On cgroup v1 the group exists in every mounted hierarchy, on v2 once; both are handled as a list of directories.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from machine.errors import MachineError
from machine.layout import Layout

_MOUNTS = Path("/proc/self/mounts")


def _hierarchies() -> list[Path]:
    found = []
    for line in _MOUNTS.read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        # A hybrid machine mounts v2 beside v1, without controllers: harmless, and found the same way.
        if kind in {"cgroup", "cgroup2"} and "ro" not in options.split(","):
            found.append(Path(target))
    if not found:
        raise MachineError(
            "control groups: none is mounted writable under /sys/fs/cgroup; the kubelet needs them"
        )
    return found


def ensure(layout: Layout) -> None:
    """Make the group: `<group>/processes` for what we start, `<group>/kubepods` is the kubelet's."""
    for hierarchy in _hierarchies():
        group = hierarchy / layout.cgroup
        (group / "processes").mkdir(parents=True, exist_ok=True)
        for level in (hierarchy, group):
            controllers = level / "cgroup.controllers"
            if controllers.exists():
                for controller in controllers.read_text().split():
                    _write_if_permitted(level / "cgroup.subtree_control", f"+{controller}")
        if (group / "cpuset.cpus").exists():
            # A v1 cpuset starts empty, and no process may join an empty one.
            for name in ("cpuset.cpus", "cpuset.mems"):
                inherited = (hierarchy / name).read_text()
                for level in (group, group / "processes"):
                    (level / name).write_text(inherited)


def _write_if_permitted(path: Path, text: str) -> None:
    # A controller can be claimed elsewhere; the kubelet then says which one it lacks.
    try:
        path.write_text(text)
    except OSError:
        return


def join(layout: Layout) -> None:
    """Move the calling process into the group. Runs between fork and exec."""
    for hierarchy in _hierarchies():
        (hierarchy / layout.cgroup / "processes" / "cgroup.procs").write_text(str(os.getpid()))


def members(layout: Layout) -> set[int]:
    """Ids of all processes in the group, those in its pods included."""
    pids: set[int] = set()
    for hierarchy in _hierarchies():
        # Groups go away while we look: os.walk passes over them.
        for directory, _, _ in os.walk(hierarchy / layout.cgroup):
            with contextlib.suppress(OSError):
                pids.update(int(pid) for pid in Path(directory, "cgroup.procs").read_text().split())
    return pids


def kill_members(layout: Layout, *, timeout_seconds: float) -> None:
    """End every process of the group at once. Raises MachineError if one survives."""
    deadline = time.monotonic() + timeout_seconds
    while pids := members(layout):
        if time.monotonic() > deadline:
            raise MachineError(
                f"processes {sorted(pids)} did not end within {timeout_seconds:g} s of SIGKILL"
            )
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def remove(layout: Layout) -> None:
    """Remove the group and all groups below it. Its processes must have ended."""
    for hierarchy in _hierarchies():
        group = hierarchy / layout.cgroup
        if group.exists():
            for directory, _, _ in os.walk(group, topdown=False):
                _remove_group(Path(directory))


def _remove_group(directory: Path) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # The kernel keeps a group busy for a moment after its last process has ended.
            if time.monotonic() > deadline:
                raise MachineError(f"control group {directory}: {error.strerror}") from error
            time.sleep(0.05)
        else:
            return
