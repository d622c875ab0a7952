"""Where everything of one local platform lives: directories, names and addresses, all derived from two roots."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from machine.errors import MachineError

# RFC 2544 benchmarking range: never routed, so it meets no network that the machine is really on.
NODE_NETWORKS = ipaddress.ip_network("198.18.0.0/15")
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
CLUSTER_DNS_ADDRESS = "10.96.0.10"

NODE_NAME = "maas"
REGISTRY_NAME = "maas.local"
"""The registry's name in image references; the node's containerd maps it to the real address."""

LONGEST_STATE_DIRECTORY = 60
"""In bytes: a unix socket's path has at most 107 bytes, and the longest is 44 below this directory."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One platform on this machine. `state` goes with `down`, `cache` only with `down --purge`."""

    state: Path
    cache: Path

    def __post_init__(self) -> None:
        for path in (self.state, self.cache):
            if not path.is_absolute():
                raise MachineError(f"directory {str(path)!r}: must be absolute")

    @cached_property
    def identity(self) -> str:
        """Six hex digits that tell this platform's names from another's on the same machine."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:6]

    @property
    def network_namespace(self) -> str:
        return f"maas-{self.identity}"

    @property
    def cgroup(self) -> str:
        return f"maas-{self.identity}"

    @cached_property
    def _addresses(self) -> list[ipaddress.IPv4Address]:
        subnets = 1 << (30 - NODE_NETWORKS.prefixlen)
        first = int(NODE_NETWORKS.network_address) + 4 * (int(self.identity, 16) % subnets)
        return [ipaddress.IPv4Address(first + offset) for offset in (1, 2)]

    @property
    def host_address(self) -> str:
        """The machine's end of the link into the platform's network namespace."""
        return str(self._addresses[0])

    @property
    def node_address(self) -> str:
        """The platform's end: API server, registry and NodePorts answer here."""
        return str(self._addresses[1])

    @property
    def api_server(self) -> str:
        return f"https://{self.node_address}:6443"

    @property
    def registry_address(self) -> str:
        return f"{self.node_address}:5000"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def configuration(self) -> Path:
        return self.state / "config"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def stacks(self) -> Path:
        """What commands remember of each stack; not of the platform, and not removed with it."""
        return self.state / "stacks"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Pulled images, unpacked: a cache, so that a later start need not unpack them again.

        Its database has one user, so platforms that share the rest of a cache do not share this.
        """
        return self.cache / "containerd" / self.identity

    @property
    def registry_storage(self) -> Path:
        return self.cache / "registry"

    @property
    def image_storage(self) -> Path:
        """Where images are built, layers kept for the next build."""
        return self.cache / "images" / "storage"

    @property
    def model_store(self) -> Path:
        """Published models. They are the user's: `down` keeps them, `down --purge` does not."""
        return self.state / "store"
