"""Settings -> platform -> services -> exports. Knows no cloud."""

from __future__ import annotations

import dataclasses

import pulumi

from infra import targets
from infra.components.model_service import ModelService, ModelServiceArgs
from infra.config import Service, Settings


def run(settings: Settings, stack: str) -> None:
    """Declare everything of a stack. Raises ConfigError when the target lacks a setting."""
    platform = targets.provision(settings, stack)
    services = {
        service.name: ModelService(
            service.name,
            ModelServiceArgs(
                service=service,
                posture=settings.posture_defaults,
                namespace=platform.namespace,
                image=platform.image_for(settings.image_of(service)),
                model_store=platform.model_store,
                url=platform.url_for(service),
            ),
            opts=pulumi.ResourceOptions(providers=[platform.kubernetes]),
        )
        for service in settings.services.values()
    }

    pulumi.export("endpointUrl", platform.endpoint_url)
    pulumi.export("services", {name: _summary(services[name], settings.services[name]) for name in services})
    pulumi.export("modelStore", platform.model_store.url)
    pulumi.export("imageRegistry", platform.image_registry)
    pulumi.export("clusterName", platform.cluster_name)
    # No kubeconfig: this cluster is not the stack's, and who runs the program has its credentials already.


def _summary(running: ModelService, service: Service) -> dict[str, object]:
    summary: dict[str, object] = {"url": running.url, "image": running.image}
    return summary if service.model is None else summary | {"model": dataclasses.asdict(service.model)}
