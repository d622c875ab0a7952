"""The server's settings: the one place that reads its environment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_image import manifest

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class SettingsError(ValueError):
    """The environment is not a valid configuration. The message lists every problem."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is told. A variable is named like its field, in capitals; `port` is AIP_HTTP_PORT."""

    # A version directory, a directory of them, or the URL of one version directory.
    model_uri: str = "/mnt/models"
    # What the one model must be; None accepts any.
    model_sha256: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    # A container is reached from outside; "::" where there is only IPv6.
    host: str = "0.0.0.0"  # noqa: S104
    port: int = 8080
    # How long to keep serving after SIGTERM, while load balancers learn that this server leaves.
    drain_seconds: float = 5
    max_request_bytes: int = 64 * 1024 * 1024
    # Inference requests taken and not yet answered; beyond it a client is told to come back (503).
    max_pending_requests: int = 100
    # Predictions at a time, and threads inside one; default: the CPUs of the container.
    prediction_threads: int = 1
    # Pickle-based formats run code of the publisher's choice.
    trust_pickle: bool = False

    @property
    def is_remote(self) -> bool:
        return self.model_uri.partition("://")[0] in REMOTE_SCHEMES


def from_environment(environment: Mapping[str, str], cpus: int) -> Settings:
    """Read the settings; an empty variable counts as absent. Raises SettingsError."""
    values: dict[str, Any] = {"prediction_threads": cpus}
    problems = []
    for field, (variable, parse) in _READERS.items():
        if text := environment.get(variable, ""):
            try:
                values[field] = parse(text)
            except ValueError as error:
                problems.append(f"{variable}={text!r}: {error}")
    if problems:
        raise SettingsError("; ".join(problems))
    return Settings(**values)


def available_cpus(cpu_max: Path = _CPU_QUOTA) -> int:
    """CPUs that this process may use: the container's quota (cgroup v2), not all cores of its machine."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def _uri(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator and text.startswith("/"):
        return text
    if scheme == "file" and rest.startswith("/"):
        return rest
    if scheme in REMOTE_SCHEMES and rest:
        return text
    schemes = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
    raise ValueError(f"expected an absolute path, file:///path or a URL with {schemes}")


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("expected 64 lower-case hex digits, the sha256 of manifest.json")
    return text


def _name(text: str) -> str:
    if problem := manifest.name_problem(text):
        raise ValueError(problem)
    return text


def _version(text: str) -> str:
    if problem := manifest.version_problem(text):
        raise ValueError(problem)
    return text


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"expected an integer from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text):
        raise ValueError("expected seconds such as 5 or 0.5")
    return float(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model_uri": ("MODEL_URI", _uri),
    "model_sha256": ("MODEL_SHA256", _sha256),
    "model_name": ("MODEL_NAME", _name),
    "model_version": ("MODEL_VERSION", _version),
    "host": ("HOST", str),
    "port": ("AIP_HTTP_PORT", _integer(1, 65535)),
    "drain_seconds": ("DRAIN_SECONDS", _seconds),
    "max_request_bytes": ("MAX_REQUEST_BYTES", _integer(1, 2**40)),
    "max_pending_requests": ("MAX_PENDING_REQUESTS", _integer(1, 100_000)),
    "prediction_threads": ("PREDICTION_THREADS", _integer(1, 1024)),
    "trust_pickle": ("TRUST_PICKLE", _flag),
}
