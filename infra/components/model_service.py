"""One service: a model on the shared serving image, or any image, behind one address.

Owns: everything that Kubernetes needs to run, scale, update and fence it in. Does not own: the image, the
model, the namespace, and the Secrets that it names.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes

from infra import manifests
from infra.components.model_store import ModelAccess
from infra.config import PostureDefaults, Service


@dataclass(frozen=True, kw_only=True)
class ModelServiceArgs:
    service: Service
    posture: PostureDefaults
    namespace: pulumi.Input[str]
    image: pulumi.Input[str]
    model_store: ModelAccess
    url: pulumi.Input[str]


class ModelService(pulumi.ComponentResource):
    url: pulumi.Input[str]
    image: pulumi.Input[str]

    def __init__(self, name: str, args: ModelServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("maas:serving:ModelService", name, None, opts)
        service, namespace = args.service, args.namespace
        child = pulumi.ResourceOptions(parent=self)

        account = kubernetes.core.v1.ServiceAccount(
            f"{name}-account", **manifests.service_account(service, namespace=namespace), opts=child
        )
        kubernetes.networking.v1.NetworkPolicy(
            f"{name}-network-policy",
            **manifests.network_policy(service, namespace=namespace, model_port=args.model_store.port),
            opts=child,
        )
        deployment = kubernetes.apps.v1.Deployment(
            f"{name}-deployment",
            **manifests.deployment(
                service,
                namespace=namespace,
                service_account=account.metadata.name,
                image=args.image,
                model_uri=_model_uri(args),
                model_claim=args.model_store.claim_name,
                posture=args.posture,
            ),
            opts=child,
        )
        kubernetes.core.v1.Service(
            f"{name}-service", **manifests.service(service, namespace=namespace), opts=child
        )
        kubernetes.autoscaling.v2.HorizontalPodAutoscaler(
            f"{name}-autoscaler",
            **manifests.autoscaler(
                service, namespace=namespace, deployment=deployment.metadata.name, posture=args.posture
            ),
            opts=child,
        )
        kubernetes.policy.v1.PodDisruptionBudget(
            f"{name}-disruption-budget",
            **manifests.disruption_budget(service, namespace=namespace),
            opts=child,
        )

        self.url = args.url
        self.image = args.image
        self.register_outputs({"url": self.url, "image": self.image})


def _model_uri(args: ModelServiceArgs) -> pulumi.Input[str] | None:
    if args.service.model is None:
        return None
    return pulumi.Output.concat(args.model_store.url, "/", manifests.model_path(args.service.model))
