"""One machine, or any cluster of the user's own: the foundation is there, and `local` holds its facts."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from infra import config, manifests, naming, vocabulary
from infra.components.cluster import Cluster, ClusterArgs
from infra.components.image_registry import ImageRegistry, ImageRegistryArgs
from infra.components.model_store import ModelStore, ModelStoreArgs
from infra.schema import Record, problem
from infra.targets import Platform


def provision(settings: config.Settings, stack: str) -> Platform:
    facts = _facts(settings)
    cluster = Cluster("cluster", ClusterArgs(context=facts.kube_context))
    namespace = kubernetes.core.v1.Namespace(
        "namespace",
        **manifests.namespace(naming.namespace(stack)),
        opts=pulumi.ResourceOptions(provider=cluster.provider),
    )
    model_store = ModelStore(
        "model-store",
        ModelStoreArgs(
            url=facts.model_store,
            volume_name=naming.model_volume(stack),
            namespace=namespace.metadata.name,
        ),
        opts=pulumi.ResourceOptions(providers=[cluster.provider]),
    )
    image_registry = ImageRegistry(
        "image-registry", ImageRegistryArgs(url=facts.image_registry, built=facts.images)
    )

    return Platform(
        kubernetes=cluster.provider,
        cluster_name=cluster.cluster_name,
        namespace=namespace.metadata.name,
        model_store=model_store.access,
        image_registry=image_registry.url,
        image_for=image_registry.image,
        endpoint_url=_endpoint_url(settings, facts),
        url_for=lambda service: _url(service, facts, stack),
    )


def _url(service: config.Service, facts: config.Local, stack: str) -> str:
    if service.node_port is None:
        return f"http://{service.name}.{naming.namespace(stack)}.svc"
    return f"http://{facts.endpoint_host}:{service.node_port}"


def _endpoint_url(settings: config.Settings, facts: config.Local) -> str:
    """Where the service with the lowest node port answers; empty when no service has one."""
    ports = [service.node_port for service in settings.services.values() if service.node_port is not None]
    return f"http://{facts.endpoint_host}:{min(ports)}" if ports else ""


def _facts(settings: config.Settings) -> config.Local:
    """The facts, complete for what is about to happen, so that nothing is created before a gap is found."""
    path = f"{config.PREFIX}local"
    if settings.local is None:
        allowed = Record(of=config.Local).allowed
        fix = "run `maas up`, which fills it in; by hand: docs/configuration.md"
        raise config.ConfigError([problem(path, "is missing", allowed, fix)])
    # A preview may come before the build: the image is unknown then.
    if not pulumi.runtime.is_dry_run():
        folders = {settings.image_of(service).build for service in settings.services.values()} - {None}
        unbuilt = sorted(str(folder) for folder in folders - settings.local.images.keys())
        if unbuilt:
            fix = "run `maas up`, which builds it, or add the image you built"
            raise config.ConfigError(
                problem(f"{path}.images.{folder}", "is missing", vocabulary.IMAGE.allowed, fix)
                for folder in unbuilt
            )
    return settings.local
