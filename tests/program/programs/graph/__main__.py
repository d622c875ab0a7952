"""Parents, inheritance, aliases, dependencies, secrets and unknowns."""

import pulumi
import pulumi_kubernetes as kubernetes
from pulumi import Alias, ResourceOptions

provider = kubernetes.Provider(
    "cluster", context=pulumi.Config().require("context"), cluster_identifier="tests"
)


def config_map(name: str, opts: ResourceOptions, **data: pulumi.Input[str]) -> kubernetes.core.v1.ConfigMap:
    metadata = {"name": name, "namespace": "default"}
    return kubernetes.core.v1.ConfigMap(name, metadata=metadata, data=data, opts=opts)


class Component(pulumi.ComponentResource):
    def __init__(self, name: str, opts: ResourceOptions | None = None) -> None:
        super().__init__(f"graph:index:{type(self).__name__}", name, {"given": name}, opts)


class Outer(Component):
    def __init__(self, name: str, opts: ResourceOptions | None = None) -> None:
        super().__init__(name, opts)
        self.inner = Inner(f"{name}-inner", ResourceOptions(parent=self))
        self.register_outputs({"mode": self.inner.first.data["mode"]})


class Inner(Component):
    def __init__(self, name: str, opts: ResourceOptions | None = None) -> None:
        super().__init__(name, opts)
        self.first = config_map(f"{name}-first", ResourceOptions(parent=self), mode="batch")
        self.second = config_map(
            f"{name}-second",
            ResourceOptions(parent=self, protect=False, ignore_changes=["data"]),
            mode=self.first.data["mode"],
        )
        self.register_outputs({})


outer = Outer("outer", ResourceOptions(providers=[provider], protect=True))
namespace = kubernetes.core.v1.Namespace(
    "space", metadata={"name": "space"}, opts=ResourceOptions(provider=provider, retain_on_delete=True)
)
child = config_map("child", ResourceOptions(parent=namespace), plain="1")
renamed = config_map(
    "renamed",
    ResourceOptions(
        provider=provider,
        depends_on=[outer],
        aliases=[Alias(name="former"), Alias(parent=outer), Alias(type_="kubernetes:core/v2:ConfigMap")],
    ),
)
secret = kubernetes.core.v1.Secret(
    "secret",
    metadata={"name": "secret", "namespace": "default"},
    string_data={"password": "correct-horse"},
    opts=ResourceOptions(provider=provider, protect=True),
)
config_map(
    "mixed",
    ResourceOptions(provider=provider),
    hidden=pulumi.Output.secret("battery-staple"),
    unknown=child.id,
    plain="shown",
)
pulumi.export("mode", outer.inner.second.data["mode"])
pulumi.export("numbers", {"whole": 3, "part": 0.5})
pulumi.export("secret", pulumi.Output.secret("correct-horse"))
