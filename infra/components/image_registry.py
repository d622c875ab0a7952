"""The image registry that the cluster's nodes pull from.

Owns: the answer to which image, by digest, a stack file means. Does not own: the registry, which is the
machine's or the user's, nor building and pushing, which happen before the program runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.config import ImageSource


@dataclass(frozen=True, kw_only=True)
class ImageRegistryArgs:
    url: str
    built: Mapping[str, str]
    """Folder -> the image built from it, by digest."""


class ImageRegistry(pulumi.ComponentResource):
    url: str

    def __init__(
        self, name: str, args: ImageRegistryArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("maas:registry:ImageRegistry", name, None, opts)
        self.url = args.url
        self._built = args.built
        self.register_outputs({"url": self.url})

    def image(self, source: ImageSource) -> pulumi.Input[str]:
        """The image by digest; unknown when it is yet to be built, which only a preview gets to see."""
        unknown: pulumi.Output[Any] = pulumi.Output.from_input(pulumi.UNKNOWN)
        return source.image or self._built.get(source.build or "") or unknown
