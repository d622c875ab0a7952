"""What a single value of the configuration may be: names, references, quantities and addresses.

Patterns are Kubernetes' and the image reference grammar's, narrowed to what the platform can keep to.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from infra.schema import Leaf, RefusedError, integer, text

RESERVED_ENV: Final = frozenset(
    {"AIP_HTTP_PORT", "DRAIN_SECONDS", "MODEL_NAME", "MODEL_SHA256", "MODEL_URI", "MODEL_VERSION", "PORT"}
)


def _accept_env_name(value: object) -> str:
    name = _ENV_PATTERN.accept(value)
    if name in RESERVED_ENV:
        raise RefusedError("choose another name: the platform sets this one")
    return str(name)


def _accept_cpu(value: object) -> str:
    # YAML reads `cpu: 1` and `cpu: 0.5` as numbers, and Kubernetes takes them.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    quantity = _CPU_PATTERN.accept(str(value) if number else value)
    return str(quantity)


def _accept_store_url(value: object) -> str:
    url = str(_STORE_PATTERN.accept(value))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RefusedError("correct the host and the port") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise RefusedError("take the credentials out of the URL: no secret belongs in a configuration")
    path = parts.path.strip("/").split("/")
    if parts.scheme == "file" and (parts.netloc or path == [""] or ".." in path):
        raise RefusedError("write the absolute path of a directory: file:///srv/models")
    if parts.scheme != "file" and (not parts.hostname or port == 0):
        raise RefusedError
    return url.rstrip("/")


def _image_advice(value: str) -> str | None:
    if "@" in value:
        return None
    return f"a tag can move: `docker buildx imagetools inspect {value}` prints the digest to write instead"


def _memory_advice(value: str) -> str | None:
    return f"add a unit: {value}Mi" if value.isdecimal() else None


_SHA256 = r"[0-9a-f]{64}"
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_FOLDER = r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*"
_IMAGE_PART = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?"

# 40 characters leave room for what Kubernetes appends to make a pod's name of it.
_NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
_NAME_ALLOWED = "a lower-case letter, then lower-case letters, digits and hyphens, 40 characters at most"

SERVICE_NAME = text(_NAME, allowed=_NAME_ALLOWED, example="iris")
MODEL_NAME = text(_NAME, allowed=_NAME_ALLOWED, example="iris")
MODEL_VERSION = text(
    r"(?!latest$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    allowed="letters, digits, dots, underscores and hyphens, 63 characters at most, not `latest`",
    example="1",
)
MODEL_SHA256 = text(
    _SHA256,
    allowed="the 64 hexadecimal digits of the model's digest",
    example=64 * "0",
    advice=lambda _value: "take it from `maas models`, or from sha256sum of the version's manifest.json",
)
IMAGE = text(
    rf"({_HOST}/)?{_IMAGE_PART}(/{_IMAGE_PART})*@sha256:{_SHA256}",
    allowed="an image by digest: host/repository@sha256:<64 hexadecimal digits>",
    example="registry.example/scorer@sha256:" + 64 * "0",
    advice=_image_advice,
)
FOLDER = text(
    _FOLDER,
    allowed="a folder with a Dockerfile, relative to the repository",
    example="examples/flask",
)
PORT = integer(1, 65535, example=8080)
NODE_PORT = integer(30000, 32767, example=30080)
HTTP_PATH = text(r"/[!-~]*", allowed="a path that starts with /", example="/healthz")
_ENV_PATTERN = text(
    r"[A-Z][A-Z0-9_]*",
    allowed="upper-case letters, digits and underscores, not one of " + ", ".join(sorted(RESERVED_ENV)),
    example="LOG_LEVEL",
)
ENV_NAME = Leaf(allowed=_ENV_PATTERN.allowed, example=_ENV_PATTERN.example, accept=_accept_env_name)
# Hidden: a password written here by mistake must not be repeated in the log of a pipeline.
ENV_VALUE = text(r"[^\0]*", allowed="text", example="batch", hidden=True)
SECRET_NAME = text(
    rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*",
    allowed="the name of a Kubernetes Secret: lower-case letters, digits, hyphens and dots",
    example="scorer-db",
    hidden=True,
)
SECRET_KEY = text(
    r"[A-Za-z0-9._-]{1,253}",
    allowed="a key of that Secret: letters, digits, dots, underscores and hyphens",
    example="url",
    hidden=True,
)
_CPU_PATTERN = text(
    r"(?=.*[1-9])([0-9]{1,6}m|[0-9]{1,3}(\.[0-9]{1,3})?)",
    allowed="cores, such as 1 or 0.5, or millicores, such as 250m",
    example="250m",
)
CPU = Leaf(allowed=_CPU_PATTERN.allowed, example=_CPU_PATTERN.example, accept=_accept_cpu)
MEMORY = text(
    r"[1-9][0-9]*(Mi|Gi|M|G)",
    allowed="a whole number with the unit Mi, Gi, M or G",
    example="512Mi",
    advice=_memory_advice,
)
GPU = integer(0, 64, example=1)
REPLICAS = integer(1, example=2)
ARGUMENT = text(r"(?s).+", allowed="text", example="gunicorn")
CONTEXT = text(r"\S+", allowed="the name of a context in the kubeconfig", example="kind-kind")
REGISTRY = text(
    rf"{_HOST}(/{_IMAGE_PART})*", allowed="host, host:port or host/repository", example="maas.local"
)
HOST = text(
    r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    allowed="the host name or IPv4 address at which node ports answer",
    example="127.0.0.1",
)
_STORE_PATTERN = text(
    r"(file://|(s3|gs|az|https?)://[^/])\S*",
    allowed="a URL without credentials: file:/// with an absolute path, s3://, gs://, az://, http:// or https://",
    example="file:///srv/models",
)
STORE_URL = Leaf(
    allowed=_STORE_PATTERN.allowed, example=_STORE_PATTERN.example, accept=_accept_store_url, hidden=True
)
