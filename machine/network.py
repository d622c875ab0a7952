"""The platform's own network namespace: a veth pair to the machine, and no route to anywhere else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from machine.errors import MachineError
from machine.layout import SERVICE_CIDR, Layout


def _ip(*arguments: str, namespace: str | None = None) -> str:
    return _run(["ip", *(("-n", namespace) if namespace else ()), *arguments])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def enter(layout: Layout) -> tuple[str, ...]:
    """The command prefix that runs a program inside the namespace.

    Not `ip netns exec`: that remounts /sys, and the kubelet then finds no cgroups.
    """
    return ("nsenter", f"--net=/run/netns/{layout.network_namespace}", "--")


def exists(layout: Layout) -> bool:
    return Path("/run/netns", layout.network_namespace).exists()


def ensure(layout: Layout) -> None:
    """Make the namespace, its link and its routes; does nothing when they are there."""
    name, link = layout.network_namespace, f"maas{layout.identity}"
    if exists(layout):
        # The route is made last: without it an earlier command was ended half-way.
        if _ip("route", "show", SERVICE_CIDR, namespace=name).strip():
            return
        remove(layout)
    for interface in json.loads(_ip("-j", "address", "show")):
        for address in interface.get("addr_info", ()):
            if address["local"] == layout.host_address:
                raise MachineError(
                    f"address {layout.host_address}: taken by the interface {interface['ifname']};"
                    " set MAAS_STATE_DIR to another directory, the address follows from it"
                )
    _ip("netns", "add", name)
    _ip("link", "add", link, "type", "veth", "peer", "name", "node0", "netns", name)
    _ip("address", "add", f"{layout.host_address}/30", "dev", link)
    _ip("link", "set", link, "up")
    _ip("link", "set", "lo", "up", namespace=name)
    _ip("address", "add", f"{layout.node_address}/30", "dev", "node0", namespace=name)
    _ip("link", "set", "node0", "up", namespace=name)
    _run([*enter(layout), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    # kube-proxy rewrites a ClusterIP after routing has decided, so a route must exist. By `lo`: a packet that
    # is not rewritten, because kube-proxy is not up yet, goes nowhere instead of out of the namespace.
    _ip("route", "add", SERVICE_CIDR, "dev", "lo", "src", layout.node_address, namespace=name)


def remove(layout: Layout) -> None:
    """Remove the namespace; its interfaces, routes, rules and sysctls go with it."""
    # The link first: the namespace may outlive its name for as long as a process holds it.
    if Path("/sys/class/net", f"maas{layout.identity}").exists():
        _ip("link", "delete", f"maas{layout.identity}")
    if exists(layout):
        _ip("netns", "delete", layout.network_namespace)
