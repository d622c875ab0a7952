"""A namespace and, for each configured service, a component: Deployment, Service, Secret and ConfigMap."""

import components
import pulumi
import pulumi_kubernetes as kubernetes

config = pulumi.Config()
provider = kubernetes.Provider(
    "cluster", context=config.require("context"), cluster_identifier="engine-tests", namespace="default"
)
namespace = kubernetes.core.v1.Namespace(
    "apps",
    metadata={"name": config.require("namespace")},
    opts=pulumi.ResourceOptions(provider=provider),
)
for name, settings in config.require_object("services").items():
    service = components.Service(
        name,
        namespace=namespace.metadata.name,
        settings=settings,
        opts=pulumi.ResourceOptions(providers=[provider], depends_on=[namespace]),
    )
    pulumi.export(f"{name}Host", service.host)
pulumi.export("token", pulumi.Output.secret("s3cr3t-token"))
