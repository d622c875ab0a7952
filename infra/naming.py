"""Names of the objects that a stack makes. Pure; one place, so that the program and the commands agree."""

from __future__ import annotations

import hashlib
import re

_MAXIMUM = 63
"""Characters in a DNS-1123 label, and in the value of a Kubernetes label."""


def namespace(stack: str) -> str:
    """The namespace that everything of a stack lives in."""
    return _label(f"model-serving-{stack}")


def model_volume(stack: str) -> str:
    """The PersistentVolume of a stack's model store: of the whole cluster, so it carries the stack's name."""
    return _label(f"model-serving-{stack}-models")


def _label(name: str) -> str:
    """`name` itself where Kubernetes takes it; else what it takes, with a digest to keep two names apart."""
    label = re.sub(r"[^a-z0-9-]", "-", name.lower()).rstrip("-")
    if label == name and len(name) <= _MAXIMUM:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{label[: _MAXIMUM - 9].rstrip('-')}-{digest}"
