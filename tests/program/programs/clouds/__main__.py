"""A cloud resource with a secret, a data source, another stack's outputs, a lookup; no SDK of a cloud."""

import pulumi
from pulumi import ResourceOptions

provider = pulumi.ProviderResource("cloud", "europe", {"region": "europe"})
foundation = pulumi.StackReference("organization/clouds/shared")


class Bucket(pulumi.CustomResource):
    url: pulumi.Output[str]


key = pulumi.runtime.invoke_output(
    "cloud:index:getKey", {"name": "k"}, pulumi.InvokeOptions(provider=provider)
)
bucket = Bucket(
    "cloud:index:Bucket",
    "models",
    {"name": "models", "key": key, "token": pulumi.Output.secret("t0p-secret"), "url": None},
    ResourceOptions(provider=provider, protect=True),
)
lookup = Bucket(
    "cloud:index:Bucket", "found", {"url": None}, ResourceOptions(provider=provider, id="found-1")
)
pulumi.export("url", bucket.url)
pulumi.export("registry", foundation.get_output("registry"))
