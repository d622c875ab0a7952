"""Upstream Kubernetes on this machine: made ready to start, started in order, waited for."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from machine import cgroups, configuration, processes
from machine.errors import MachineError
from machine.layout import (
    CLUSTER_DNS_ADDRESS,
    NODE_NAME,
    Layout,
)

_READY_SECONDS = 120
_KUBELET_SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


def configure(layout: Layout, binaries: Path) -> None:
    """Write certificates, kubeconfigs and configuration files; those that are there already stay."""
    layout.configuration.mkdir(parents=True, exist_ok=True)
    for directory in (layout.state, layout.pki):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    for name, content in configuration.files(layout).items():
        path = layout.configuration / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        # kube-proxy ends when its file is written, were it with the same content.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    kubeadm = [str(binaries / "kubeadm")]
    config = ["--config", str(layout.configuration / "kubeadm.yaml")]
    if not (layout.pki / "sa.pub").exists():  # the last that kubeadm makes
        _run([*kubeadm, "init", "phase", "certs", "all", *config])
    if not (layout.configuration / "scheduler.conf").exists():
        target = ["--kubeconfig-dir", str(layout.configuration)]
        _run([*kubeadm, "init", "phase", "kubeconfig", "all", *config, *target])
    for user in ("kube-proxy", "coredns", "metrics-server"):
        path = layout.configuration / f"{user}.conf"
        if not path.exists():
            _write_secret(
                path, _run([*kubeadm, "kubeconfig", "user", "--client-name", f"system:{user}", *config])
            )
    if not layout.kubeconfig.exists():
        admin = layout.configuration / "admin.conf"
        text = admin.read_text().replace(f"kubernetes-admin@{NODE_NAME}", NODE_NAME)
        _write_secret(layout.kubeconfig, text)
        admin.unlink()


def _write_secret(path: Path, text: str) -> None:
    """A file for root alone, there whole or not at all: an interrupted start finds no half of one."""
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.replace(path)


def _run(command: Sequence[str], *, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} failed:\n{done.stderr.strip()[-2000:]}"
        )
    return done.stdout


def _wait(layout: Layout, condition: Callable[[], bool], *, what: str, needs: Sequence[str]) -> None:
    """Wait for a condition. Raises MachineError with the last words of what it needs, when one ends or it takes long.

    The last of `needs` is the one whose words explain a time-out.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while not condition():
        for name in needs:
            processes.require_running(layout, name)
        if time.monotonic() > deadline:
            words = processes.last_words(layout, needs[-1])
            raise MachineError(
                f"{what}: not ready after {_READY_SECONDS} s; the last words of {needs[-1]}:\n{words}"
            )
        time.sleep(0.1)


def is_ready(layout: Layout) -> bool:
    """Whether the API server answers /readyz to the administrator."""
    try:
        context = ssl.create_default_context(cafile=str(layout.pki / "ca.crt"))
        context.load_cert_chain(
            layout.pki / "apiserver-kubelet-client.crt", layout.pki / "apiserver-kubelet-client.key"
        )
        with urllib.request.urlopen(f"{layout.api_server}/readyz", context=context, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def kubectl(layout: Layout, binaries: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator and return what it printed."""
    return _run([str(binaries / "kubectl"), "--kubeconfig", str(layout.kubeconfig), *arguments], stdin=stdin)


def bootstrap(layout: Layout, binaries: Path) -> None:
    """Apply what a cluster has before its first workload: administrators, DNS and the metrics API."""
    manifests = resources.files("machine").joinpath("bootstrap.yaml").read_text()
    for placeholder, value in (
        ("NODE_ADDRESS", layout.node_address),
        ("CLUSTER_DNS_ADDRESS", CLUSTER_DNS_ADDRESS),
    ):
        manifests = manifests.replace(f"${placeholder}", value)
    # kubeadm's administrators have no rights until this first apply has bound them, by the one kubeconfig that has.
    super_admin = str(layout.configuration / "super-admin.conf")
    apply = [str(binaries / "kubectl"), "--kubeconfig", super_admin, "apply", "--server-side", "-f", "-"]
    _run(apply, stdin=manifests)


def node_is_ready(layout: Layout, binaries: Path) -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    try:
        return kubectl(layout, binaries, "get", "node", NODE_NAME, "-o", path) == "True"
    except MachineError:  # not registered yet
        return False


def remember_sysctls(layout: Layout) -> None:
    """Note the kernel settings that the kubelet changes for the whole machine, so that `down` can put them back."""
    saved = layout.state / "sysctls.json"
    if not saved.exists():
        values = {name: Path("/proc/sys", name).read_text().strip() for name in _KUBELET_SYSCTLS}
        _write_secret(saved, json.dumps(values))


def restore_sysctls(layout: Layout) -> None:
    saved = layout.state / "sysctls.json"
    if saved.exists():
        for name, value in json.loads(saved.read_text()).items():
            Path("/proc/sys", name).write_text(value)


def start(layout: Layout, binaries: Path, *, tell: Callable[[str], None]) -> None:
    """Start whatever does not run yet, in order, and wait until the node is ready."""
    cgroups.ensure(layout)
    configure(layout, binaries)
    remember_sysctls(layout)
    for path in (layout.registry_storage, layout.containerd_root):
        path.mkdir(parents=True, exist_ok=True)
    tell("etcd, image registry, containerd")
    for process in configuration.storage_processes(layout):
        processes.start(layout, process)
    tell("API server")
    processes.start(layout, configuration.api_server(layout, binaries))
    _wait(layout, lambda: is_ready(layout), what="Kubernetes API", needs=("etcd", "kube-apiserver"))
    bootstrap(layout, binaries)
    tell("controllers, scheduler, kubelet, proxy, DNS, metrics")
    for process in configuration.cluster_processes(layout, binaries):
        processes.start(layout, process)
    tell("waiting for the node")
    nodes = ("containerd", "kube-controller-manager", "kubelet")
    _wait(layout, lambda: node_is_ready(layout, binaries), what=f"node {NODE_NAME}", needs=nodes)


def environment(layout: Layout) -> dict[str, str]:
    """What a client of this cluster needs in its environment."""
    return {"KUBECONFIG": os.fspath(layout.kubeconfig)}
