"""The two places where `local` can run: the machine's own Kubernetes, or a cluster that the user has."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from machine import kubernetes, lifecycle, packages
from machine.images import ImageBuilder, Registry
from machine.layout import NODE_NAME, Layout
from machine.progress import Progress
from operations.errors import OperationError
from operations.stack_file import write_atomically


def layout() -> Layout:
    """Directories from the environment, else the system's for root and the user's own for anybody else."""
    home = Path.home()
    root = os.geteuid() == 0
    state = (
        Path("/var/lib/maas")
        if root
        else Path(os.environ.get("XDG_STATE_HOME", home / ".local/state"), "maas")
    )
    cache = (
        Path("/var/cache/maas") if root else Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"), "maas")
    )
    return Layout(
        state=_resolved(os.environ.get("MAAS_STATE_DIR", state)),
        cache=_resolved(os.environ.get("MAAS_CACHE_DIR", cache)),
    )


def _resolved(path: str | Path) -> Path:
    """As the kernel names it in its table of mounts; a relative one stays, to be refused."""
    return Path(path).resolve() if Path(path).is_absolute() else Path(path)


class Platform(Protocol):
    """Where a local stack runs, and the facts about it that the program is given."""

    @property
    def context(self) -> str: ...

    @property
    def registry(self) -> Registry: ...

    @property
    def model_store(self) -> str:
        """Its URL."""

    @property
    def endpoint_host(self) -> str:
        """Where NodePorts answer."""

    def environment(self) -> Mapping[str, str]:
        """What a Kubernetes client needs in its environment."""

    def up(self, progress: Progress, ports: Collection[int]) -> None:
        """Make it ready; `ports` are those that will be published."""

    def is_up(self) -> bool: ...

    def publish_ports(self, ports: Iterable[int]) -> None: ...


class BuiltIn:
    """The Kubernetes that machine/ starts."""

    context = NODE_NAME
    endpoint_host = "127.0.0.1"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.registry = lifecycle.registry(layout)
        self.model_store = layout.model_store.as_uri()
        # A proxy is for the package registries: the node is on this machine.
        for name in ("no_proxy", "NO_PROXY"):
            os.environ[name] = ",".join(
                filter(None, (os.environ.get(name), "127.0.0.1", layout.node_address))
            )

    def environment(self) -> Mapping[str, str]:
        return kubernetes.environment(self.layout)

    def up(self, progress: Progress, ports: Collection[int]) -> None:
        lifecycle.check(self.layout)
        packages.ensure()
        lifecycle.require_free_ports(self.layout, ports)
        lifecycle.up(self.layout, progress)

    def is_up(self) -> bool:
        return lifecycle.is_up(self.layout)

    def publish_ports(self, ports: Iterable[int]) -> None:
        lifecycle.publish_ports(self.layout, ports)


@dataclass(frozen=True, kw_only=True)
class Existing:
    """A cluster by its kubeconfig context, with a registry and a model store that its nodes reach."""

    context: str
    registry_name: str
    model_store: str
    endpoint_host: str

    @property
    def registry(self) -> Registry:
        return Registry(name=self.registry_name, address=self.registry_name)

    def environment(self) -> Mapping[str, str]:
        return {}

    def up(self, progress: Progress, ports: Collection[int]) -> None:
        """It is the user's: nothing is started."""

    def is_up(self) -> bool:
        return True

    def publish_ports(self, ports: Iterable[int]) -> None:
        """Its NodePorts are reached at `endpoint_host` as they are."""


def remember(path: Path, platform: Existing) -> None:
    write_atomically(path, msgspec.json.encode(asdict(platform)).decode())


def recall(path: Path) -> Existing | None:
    try:
        return Existing(**msgspec.json.decode(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, TypeError) as error:
        raise OperationError(
            f"{path}: {error}; remove it and give --context, --registry and --store again"
        ) from None


def builder(layout: Layout, platform: Platform) -> ImageBuilder:
    return ImageBuilder(layout, platform.registry)
