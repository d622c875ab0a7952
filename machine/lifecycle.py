"""The platform from nothing to ready, and back to nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from machine import build, cgroups, kubernetes, network, packages, processes
from machine.errors import MachineError
from machine.images import ImageBuilder, Registry
from machine.layout import LONGEST_STATE_DIRECTORY, REGISTRY_NAME, Layout
from machine.locks import turn
from machine.processes import Process
from machine.progress import Progress

_ARCHITECTURES = ("x86_64", "aarch64")
# A build in progress, with its modules and compiled packages, and the images.
_DISK_GIB = 12
# What a machine sold with 4 GiB shows.
_MEMORY_GIB = 3.5


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One thing this machine must have; `fix` says how to get it when `met` is false."""

    name: str
    met: bool
    found: str
    fix: str
    mended_by_up: bool = False


def requirements(layout: Layout) -> list[Requirement]:
    """All that the built-in platform needs of this machine."""
    nearest = next(path for path in (layout.cache, *layout.cache.parents) if path.exists())
    free_gib = shutil.disk_usage(nearest).free / 2**30
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    missing = [package.name for package in packages.missing()]
    disk_gib = 3 if build.is_built(layout) else _DISK_GIB
    elsewhere = "use a cluster that you have: --context NAME --registry HOST --store URL"
    return [
        Requirement(
            name="operating system",
            met=platform.system() == "Linux" and platform.machine() in _ARCHITECTURES,
            found=f"{platform.system()} {platform.machine()}",
            fix=f"Linux on {' or '.join(_ARCHITECTURES)}; or {elsewhere}",
        ),
        Requirement(
            name="user",
            met=os.geteuid() == 0,
            found="root" if os.geteuid() == 0 else f"uid {os.geteuid()}",
            fix=f"run as root (sudo ./maas up): namespaces, mounts and control groups need it; or {elsewhere}",
        ),
        Requirement(
            name="state directory",
            met=len(os.fsencode(layout.state)) <= LONGEST_STATE_DIRECTORY,
            found=str(layout.state),
            fix=f"set MAAS_STATE_DIR to a path of at most {LONGEST_STATE_DIRECTORY} bytes:"
            " unix sockets live below it",
        ),
        Requirement(
            name="disk",
            met=free_gib >= disk_gib,
            found=f"{free_gib:.0f} GiB free below {nearest}",
            fix=f"free {disk_gib} GiB, or set MAAS_CACHE_DIR to a directory on a larger disk",
        ),
        Requirement(
            name="memory",
            met=memory_gib >= _MEMORY_GIB,
            found=f"{memory_gib:.1f} GiB",
            fix=f"4 GiB; or {elsewhere}",
        ),
        Requirement(
            name="distribution packages",
            met=not missing,
            found=f"missing: {' '.join(missing)}" if missing else "all installed",
            fix=f"apt-get install --no-install-recommends {' '.join(missing)} (./maas up does it)",
            mended_by_up=True,
        ),
        Requirement(
            name="Kubernetes binary",
            met=build.is_built(layout),
            found=str(build.directory(layout)) if build.is_built(layout) else "not built",
            fix="./maas up builds it, once, in about 10 minutes on 2 cores",
            mended_by_up=True,
        ),
    ]


def check(layout: Layout) -> None:
    """Raise MachineError with everything that `up` cannot mend by itself."""
    unmet = [it for it in requirements(layout) if not it.met and not it.mended_by_up]
    if unmet:
        raise MachineError("\n".join(f"{it.name}: {it.found}; needed: {it.fix}" for it in unmet))


def registry(layout: Layout) -> Registry:
    return Registry(name=REGISTRY_NAME, address=layout.registry_address)


def up(layout: Layout, progress: Progress) -> None:
    """Bring the platform up; what runs already is left alone. Distribution packages must be installed."""
    with progress.step("build Kubernetes") as step:
        binaries = build.ensure(layout, step)
    with progress.step("start Kubernetes") as step:
        network.ensure(layout)
        kubernetes.start(layout, binaries, tell=step.update)
        ImageBuilder(layout, registry(layout)).import_binary(binaries / "pause", "pause")
    layout.model_store.mkdir(parents=True, exist_ok=True)


def is_up(layout: Layout) -> bool:
    return build.is_built(layout) and network.exists(layout) and kubernetes.is_ready(layout)


def publish_ports(layout: Layout, ports: Iterable[int]) -> None:
    """Publish these NodePorts, and no others, on 127.0.0.1.

    Raises MachineError when a port is taken, with who holds it.
    """
    wanted = {f"forward-{port}": port for port in ports}
    for name in processes.names(layout):
        if name.startswith("forward-") and name not in wanted:
            processes.stop(layout, name)
    require_free_ports(layout, wanted.values())
    forward = str(build.directory(layout) / "forward")
    for name, port in wanted.items():
        command = (forward, f"127.0.0.1:{port}", f"{layout.node_address}:{port}")
        processes.start(layout, Process(name=name, command=command, in_namespace=False))


def require_free_ports(layout: Layout, ports: Iterable[int]) -> None:
    """Raise MachineError unless each port is free on 127.0.0.1 or published by this platform."""
    for port in ports:
        if processes.running(layout, f"forward-{port}") is None and (holder := _port_holder(port)):
            raise MachineError(
                f"port 127.0.0.1:{port}: taken by {holder}; end it, or give the service another nodePort"
                " in the stack file"
            )


def _port_holder(port: int) -> str | None:
    command = ["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", f"sport = :{port}"]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        if line.split()[3].rpartition(":")[0] in {"127.0.0.1", "0.0.0.0", "*", "[::]"}:  # noqa: S104
            found = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line)
            return f"{found[1]} (pid {found[2]})" if found else "a process of another user"
    return None


@dataclass(frozen=True, kw_only=True)
class Component:
    name: str
    running: bool
    log: Path


def components(layout: Layout) -> list[Component]:
    """Every process that `up` started, and whether it still runs."""
    return [
        Component(
            name=name,
            running=processes.running(layout, name) is not None,
            log=processes.log_file(layout, name),
        )
        for name in processes.names(layout)
    ]


def down(layout: Layout, progress: Progress) -> None:
    """Remove what `up` made. Caches and published models stay."""
    with progress.step("stop Kubernetes"):
        _stop_processes(layout)
    with progress.step("remove what is left"):
        _unmount_below(layout.state, layout.containerd_root)
        if layout.image_storage.exists():
            with turn(layout.image_storage.parent):  # an interrupted image build leaves a mount
                _unmount_below(layout.image_storage)
        cgroups.remove(layout)
        network.remove(layout)
        kubernetes.restore_sysctls(layout)
        _remove_container_log_links(layout)
        for path in layout.state.glob("*"):
            if path not in (layout.model_store, layout.stacks):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def purge(layout: Layout) -> None:
    """Remove caches and published models as well; the platform must be down.

    Raises MachineError when another platform lives on the same caches.
    """
    users = [directory.name for directory in layout.containerd_root.parent.glob("*")]
    if others := [f"maas-{user}" for user in users if Path("/run/netns", f"maas-{user}").exists()]:
        raise MachineError(f"caches {layout.cache}: in use by {', '.join(others)}; take them down first")
    for directory in (layout.model_store, layout.cache):
        if directory.exists():
            shutil.rmtree(directory)
    if layout.state.exists() and not any(layout.state.iterdir()):
        layout.state.rmdir()


def _stop_processes(layout: Layout) -> None:
    """End everything, at once: nothing of it is to be used again, so nothing needs to be put in order."""
    # The kubelet first, so that nobody starts a container again.
    processes.stop(layout, "kubelet", timeout_seconds=1)
    sockets = _shim_sockets(layout)
    _remove_containers(layout)
    cgroups.kill_members(layout, timeout_seconds=10)
    for socket in sockets:
        socket.unlink(missing_ok=True)


def _remove_containers(layout: Layout) -> None:
    """Forget every container, so that the image cache that stays behind names none."""
    if processes.running(layout, "containerd") is None:
        return
    ctr = ["ctr", f"--address={layout.containerd_socket}", "--namespace=k8s.io"]

    def run(*arguments: str) -> list[str]:
        try:
            done = subprocess.run([*ctr, *arguments], capture_output=True, text=True, check=False, timeout=20)
        except subprocess.TimeoutExpired:  # containerd hangs: it is killed next, with all that it runs
            return []
        return done.stdout.split()

    if tasks := run("tasks", "list", "--quiet"):
        run("tasks", "delete", "--force", *tasks)
    if containers := run("containers", "list", "--quiet"):
        run("containers", "delete", *containers)


def _shim_sockets(layout: Layout) -> list[Path]:
    # containerd keeps them in a directory of the machine, whatever its own configuration says.
    addresses = (layout.run / "containerd").glob("io.containerd.runtime.v2.task/*/*/address")
    return [Path(address.read_text().removeprefix("unix://")) for address in addresses]


def _unmount_below(*roots: Path) -> None:
    """Unmount everything below. Raises MachineError when something stays.

    It must not: a pod's volume is the model store itself, and what is removed next would be removed through it.
    """
    for target in reversed(_mounts_below(roots)):
        subprocess.run(["umount", "--lazy", str(target)], check=False, capture_output=True)
    if left := _mounts_below(roots):
        paths = ", ".join(map(str, left))
        raise MachineError(
            f"mounts {paths}: could not be unmounted, so no file was removed; unmount them, then down"
        )


def _mounts_below(roots: Collection[Path]) -> list[Path]:
    # Octal escapes stand for bytes, and paths need not be text.
    fields = [line.split(b" ")[1] for line in Path("/proc/self/mounts").read_bytes().splitlines()]
    paths = [Path(os.fsdecode(field.decode("unicode_escape").encode("latin-1"))) for field in fields]
    return [path for path in paths if any(path.is_relative_to(root) for root in roots)]


def _remove_container_log_links(layout: Layout) -> None:
    # The kubelet links every log into this directory of the machine.
    directory = Path("/var/log/containers")
    for link in directory.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(layout.logs):
            link.unlink()
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
