"""The model store, as the pods of one namespace read it.

Owns: for a directory of the node, the volume and the claim that mount it read-only; for a store with a URL,
nothing, as the server downloads from it. Does not own: the models, which are published outside Pulumi and
outlive every stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pulumi
import pulumi_kubernetes as kubernetes

from infra import manifests

_CLAIM = "models"
_DEFAULT_PORTS = {"http": 80, "https": 443, "s3": 443, "gs": 443, "az": 443}


@dataclass(frozen=True, kw_only=True)
class ModelStoreArgs:
    url: str
    """A directory as file:///..., else one of a bucket or a web server."""
    volume_name: str
    namespace: pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class ModelAccess:
    """How a pod reads the store: mounted where there is a claim, else downloaded from the URL."""

    url: pulumi.Input[str]
    claim_name: pulumi.Input[str] | None = None
    port: int | None = None
    """The TCP port that a download goes to."""


class ModelStore(pulumi.ComponentResource):
    access: ModelAccess

    def __init__(self, name: str, args: ModelStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("maas:storage:ModelStore", name, None, opts)
        url = urlsplit(args.url)
        if url.scheme == "file":
            self.access = ModelAccess(url=args.url, claim_name=self._mount(name, args, unquote(url.path)))
        else:
            self.access = ModelAccess(url=args.url, port=url.port or _DEFAULT_PORTS[url.scheme])
        self.register_outputs({"url": args.url})

    def _mount(self, name: str, args: ModelStoreArgs, path: str) -> pulumi.Output[str]:
        child = pulumi.ResourceOptions(parent=self)
        volume = kubernetes.core.v1.PersistentVolume(
            f"{name}-volume",
            **manifests.model_volume(
                args.volume_name, path=path, claim=_CLAIM, claim_namespace=args.namespace
            ),
            opts=child,
        )
        claim = kubernetes.core.v1.PersistentVolumeClaim(
            f"{name}-claim",
            **manifests.model_claim(_CLAIM, namespace=args.namespace, volume=volume.metadata.name),
            opts=child,
        )
        return claim.metadata.name
