"""The component the sample program is made of."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes


class Service(pulumi.ComponentResource):
    host: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        namespace: pulumi.Input[str],
        settings: Mapping[str, Any],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("sample:index:Service", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = {"app": name}
        secret = kubernetes.core.v1.Secret(
            f"{name}-key",
            metadata={"name": f"{name}-key", "namespace": namespace},
            string_data={"key": pulumi.Output.secret(settings.get("key", "hunter2-hunter2"))},
            opts=child,
        )
        settings_map = kubernetes.core.v1.ConfigMap(
            f"{name}-settings",
            metadata={"name": f"{name}-settings", "namespace": namespace},
            data={"MODE": settings.get("mode", "batch")},
            opts=child,
        )
        deployment = kubernetes.apps.v1.Deployment(
            f"{name}-deployment",
            metadata={"name": name, "namespace": namespace, **settings.get("metadata", {})},
            spec={
                "replicas": int(settings["replicas"]),
                "selector": {"match_labels": labels},
                "strategy": {"rolling_update": {"max_unavailable": 0, "max_surge": 1}},
                **settings.get("deployment", {}),
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automount_service_account_token": False,
                        **settings.get("pod", {}),
                        "containers": [
                            {
                                "name": "web",
                                "image": settings["image"],
                                **({"command": settings["command"]} if "command" in settings else {}),
                                "ports": [{"container_port": int(settings["port"])}],
                                "env": [
                                    {"name": "MODE", "value": settings_map.data["MODE"]},
                                    {
                                        "name": "KEY",
                                        "value_from": {
                                            "secret_key_ref": {"name": secret.metadata.name, "key": "key"}
                                        },
                                    },
                                ],
                                **settings.get("container", {}),
                            }
                        ],
                    },
                },
            },
            opts=child,
        )
        service = kubernetes.core.v1.Service(
            f"{name}-service",
            metadata={"name": name, "namespace": namespace},
            spec={"selector": labels, "ports": [{"port": 80, "target_port": int(settings["port"])}]},
            opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
        )
        self.host = pulumi.Output.concat(service.metadata.name, ".", namespace)
        self.register_outputs({"host": self.host})
