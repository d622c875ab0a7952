"""Where a stack runs: each module provisions what services need on one target, and gives it as a Platform.

It is for everything that differs between targets. It is not for services, which are the same everywhere
(program.py). Only the selected target's module is imported: a cloud's SDK takes seconds to load.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pulumi
import pulumi_kubernetes as kubernetes

from infra.components.model_store import ModelAccess
from infra.config import ImageSource, Service, Settings


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a target gives to services: the same fields everywhere."""

    kubernetes: kubernetes.Provider
    cluster_name: pulumi.Input[str]
    namespace: pulumi.Input[str]
    model_store: ModelAccess
    image_registry: pulumi.Input[str]
    endpoint_url: pulumi.Input[str]
    image_for: Callable[[ImageSource], pulumi.Input[str]]
    url_for: Callable[[Service], pulumi.Input[str]]


def provision(settings: Settings, stack: str) -> Platform:
    """Declare the resources of the settings' target. Raises ConfigError when the target lacks a setting."""
    module = importlib.import_module(f"infra.targets.{settings.target}")
    return cast(Callable[[Settings, str], Platform], module.provision)(settings, stack)
