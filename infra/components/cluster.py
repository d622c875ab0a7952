"""A Kubernetes cluster that exists already, by its context in the kubeconfig.

Owns: the one explicit provider for it. Does not own: the cluster, whose life is the machine's or the
user's, nor the kubeconfig: it is read from $KUBECONFIG, so no credential lands in a stack file or in state.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as kubernetes


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    context: str


class Cluster(pulumi.ComponentResource):
    provider: kubernetes.Provider
    cluster_name: str

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("maas:kubernetes:Cluster", name, None, opts)
        self.cluster_name = args.context
        self.provider = kubernetes.Provider(
            f"{name}-provider",
            context=args.context,
            # Without it a changed address or certificate in the kubeconfig would replace the provider, and
            # with it every object (pulumi-kubernetes#2745).
            cluster_identifier=args.context,
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({"clusterName": self.cluster_name})
