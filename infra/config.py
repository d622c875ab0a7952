"""The configuration of a stack: stack file -> `Settings`, with every problem reported at once.

Owns: all keys, their defaults and the rules between them. Does not own: where values come from (it is pure;
the program and the commands hand them in) and the facts of a machine (`local` is filled in at run time).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, cast

from infra import vocabulary as v
from infra.schema import INVALID, DefaultText, ListOf, MapOf, Record, choice, missing, problem

PROJECT: Final = "model-serving"
PREFIX: Final = f"{PROJECT}:"

MODEL_PORT: Final = 8080
"""What the shared serving image listens on (docs/architecture.md, the container's contract)."""


class ConfigError(ValueError):
    """One or more settings are wrong. `problems` has a line for each: key, value, what is allowed, fix."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n  ".join([f"{count} in the configuration:", *self.problems]))


class Target(StrEnum):
    """Where a stack runs. Each member is a module of infra.targets; a test asserts it."""

    LOCAL = "local"


class Layer(StrEnum):
    """What a stack holds. The foundation of `local` is the machine itself, so it knows environments only."""

    ENVIRONMENT = "environment"


class Posture(StrEnum):
    """A named set of defaults. It is not a stage: two stages may share one."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"
    EPHEMERAL = "ephemeral"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One immutable version of a model in the store. The server refuses bytes that do not match `sha256`."""

    name: Annotated[str, v.MODEL_NAME]
    version: Annotated[str, v.MODEL_VERSION]
    sha256: Annotated[str, v.MODEL_SHA256]


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where an image comes from: exactly one of the two is set."""

    image: Annotated[str | None, v.IMAGE] = None
    build: Annotated[str | None, v.FOLDER] = None


@dataclass(frozen=True, kw_only=True)
class Health:
    """Paths that answer 200 when the service can take requests, and while its process is alive."""

    ready: Annotated[str, v.HTTP_PATH]
    live: Annotated[str, v.HTTP_PATH]


MODEL_HEALTH: Final = Health(ready="/v2/health/ready", live="/v2/health/live")
"""What the Open Inference Protocol calls them; the serving image has no others."""


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """A key of a Kubernetes Secret that somebody else puts into the stack's namespace."""

    name: Annotated[str, v.SECRET_NAME]
    key: Annotated[str, v.SECRET_KEY]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one replica requests.

    Memory is limited to the same amount: it cannot be taken back, so a node never promises what it lacks.
    CPU is limited to a multiple that the posture fixes.
    """

    cpu: Annotated[str, v.CPU] = "250m"
    memory: Annotated[str, v.MEMORY] = "512Mi"
    gpu: Annotated[int, v.GPU] = 0


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The autoscaler's range."""

    min: Annotated[int, v.REPLICAS, DefaultText(text="2 in production, else 1; `max` if that is less")]
    max: Annotated[int, v.REPLICAS, DefaultText(text="6 in production, else 2; `min` if that is more")]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A model on the shared serving image, or any image: one of `model`, `image` and `build` is set."""

    name: str
    model: Annotated[Model | None, Record(of=Model)] = None
    image: Annotated[str | None, v.IMAGE] = None
    build: Annotated[str | None, v.FOLDER] = None
    port: Annotated[int, v.PORT, DefaultText(text=f"{MODEL_PORT} for a model, else required")]
    health: Annotated[
        Health,
        Record(of=Health),
        DefaultText(text=f"{MODEL_HEALTH.ready} and {MODEL_HEALTH.live} for a model, else required"),
    ]
    env: Annotated[Mapping[str, str], MapOf(placeholder="NAME", key=v.ENV_NAME, value=v.ENV_VALUE)] = field(
        default_factory=dict
    )
    secrets: Annotated[
        Mapping[str, SecretRef], MapOf(placeholder="NAME", key=v.ENV_NAME, value=Record(of=SecretRef))
    ] = field(default_factory=dict)
    resources: Annotated[Resources, Record(of=Resources)] = field(default_factory=Resources)
    command: Annotated[tuple[str, ...], ListOf(item=v.ARGUMENT)] = ()
    replicas: Annotated[Replicas, Record(of=Replicas, draft=True), DefaultText(text="by the posture")]
    node_port: Annotated[int | None, v.NODE_PORT] = None


@dataclass(frozen=True, kw_only=True)
class Local:
    """Facts about the machine, or a cluster of the user's own. `maas` fills them in; never committed."""

    kube_context: Annotated[str, v.CONTEXT]
    image_registry: Annotated[str, v.REGISTRY]
    model_store: Annotated[str, v.STORE_URL]
    endpoint_host: Annotated[str, v.HOST] = "127.0.0.1"
    images: Annotated[Mapping[str, str], MapOf(placeholder="folder", key=v.FOLDER, value=v.IMAGE)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class PostureDefaults:
    """What a posture fixes."""

    builds_images: bool
    replicas: Replicas
    cpu_limit_factor: int
    """CPU limit over CPU request."""
    progress_deadline_seconds: int
    """A rollout without progress for this long has failed."""


# On a shared machine small requests let much fit, and a high limit lets a start, which is bound by CPU
# (imports), use what is idle. In production a limit near the request keeps latency where it was measured.
_SHARED = PostureDefaults(
    builds_images=True,
    replicas=Replicas(min=1, max=2),
    cpu_limit_factor=10,
    progress_deadline_seconds=180,
)
POSTURES: Final[Mapping[Posture, PostureDefaults]] = {
    Posture.DEVELOPMENT: _SHARED,
    Posture.EPHEMERAL: _SHARED,
    # Ten minutes: a large model is downloaded and loaded within a rollout.
    Posture.PRODUCTION: PostureDefaults(
        builds_images=False,
        replicas=Replicas(min=2, max=6),
        cpu_limit_factor=2,
        progress_deadline_seconds=600,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One stack."""

    target: Annotated[Target, choice(Target)]
    layer: Annotated[Layer, choice(Layer)] = Layer.ENVIRONMENT
    posture: Annotated[Posture, choice(Posture)]
    serving_image: Annotated[ImageSource | None, Record(of=ImageSource, draft=True)] = None
    services: Annotated[
        Mapping[str, Service],
        MapOf(placeholder="name", key=v.SERVICE_NAME, value=Record(of=Service, draft=True)),
    ]
    local: Annotated[Local | None, Record(of=Local)] = None

    @property
    def posture_defaults(self) -> PostureDefaults:
        return POSTURES[self.posture]

    def image_of(self, service: Service) -> ImageSource:
        if service.model is None:
            return ImageSource(image=service.image, build=service.build)
        return cast(ImageSource, self.serving_image)  # parse() refuses a model without one


def own_values(config: Mapping[str, object], secret_keys: Collection[str] = ()) -> dict[str, object]:
    """A stack's whole config -> what `parse` takes: this project's keys without prefix, none of Pulumi's own.

    Other keys keep their whole name, for `parse` to refuse. Raises ConfigError when a value is encrypted:
    decrypted, it would end up readable in the Deployment of the service that gets it.
    """
    allowed = "plain settings; a service gets a secret by reference, from a Kubernetes Secret"
    fix = "name the Secret under `secrets` of the service"
    own = {key: value for key, value in config.items() if not key.startswith("pulumi:")}
    encrypted = sorted(own.keys() & set(secret_keys))
    if encrypted:
        raise ConfigError(problem(key, "is encrypted", allowed, fix) for key in encrypted)
    return {key.removeprefix(PREFIX): value for key, value in own.items()}


def parse(values: Mapping[str, object]) -> Settings:
    """One stack's values, keys without `model-serving:`, objects as such or as JSON. Raises ConfigError."""
    problems = [_foreign(key) for key in values if ":" in key]
    own = {key: _object(value) for key, value in values.items() if ":" not in key}
    draft = Record(of=Settings, draft=True).read(own, PREFIX, problems)
    posture = POSTURES.get(draft["posture"])
    _check(draft, posture, problems)
    if problems or posture is None:
        raise ConfigError(problems)

    serving_image = draft.pop("serving_image", None)
    services = draft.pop("services")
    return Settings(
        **draft,
        serving_image=None if serving_image is None else ImageSource(**serving_image),
        services={name: _service(name, service, posture) for name, service in services.items()},
    )


def _foreign(key: str) -> str:
    """Providers are explicit, so nothing reads another namespace; a mistyped one must not pass unseen."""
    fix = f"write {PREFIX}{key.partition(':')[2]} if that was meant, else remove it"
    return problem(key, "is read by nothing", f"keys that start with {PREFIX} or pulumi:", fix)


def _object(value: object) -> object:
    """Pulumi hands an object of a stack file on as JSON text. No scalar setting starts with a brace."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _check(draft: Mapping[str, Any], posture: PostureDefaults | None, problems: list[str]) -> None:
    """The rules between values. One that is INVALID has been reported already and breaks no further rule."""
    services = _entries(draft, "services")
    if "serving_image" in draft:
        source = draft["serving_image"]
        if source is not INVALID:
            _check_source(source, ("image", "build"), f"{PREFIX}servingImage", posture, problems)
    elif any("model" in service for service in services.values()):
        problems.append(missing(f"{PREFIX}servingImage", Record(of=ImageSource)))
    owners: dict[int, str] = {}
    for name, service in services.items():
        path = f"{PREFIX}services.{name}"
        _check_service(service, path, posture, problems)
        port = service.get("node_port")
        if isinstance(port, int) and owners.setdefault(port, name) != name:
            finding = f"is {port}, which {PREFIX}services.{owners[port]} has"
            problems.append(
                problem(f"{path}.nodePort", finding, v.NODE_PORT.allowed, "choose one that is free")
            )


def _check_source(
    draft: Mapping[str, Any],
    kinds: tuple[str, ...],
    path: str,
    posture: PostureDefaults | None,
    problems: list[str],
) -> None:
    given = [kind for kind in kinds if kind in draft]
    if len(given) != 1:
        finding = f"has {' and '.join(given)}" if given else f"has none of {', '.join(kinds)}"
        fix = "keep one of them" if given else "add one of them"
        problems.append(problem(path, finding, f"exactly one of {', '.join(kinds)}", fix))
    if "build" in draft and posture is not None and not posture.builds_images:
        allowed = "`image` by digest in production; `build` in development and ephemeral"
        fix = "build and push the image in a pipeline and write its digest"
        problems.append(problem(f"{path}.build", "is refused", allowed, fix))


def _check_service(
    draft: Mapping[str, Any], path: str, posture: PostureDefaults | None, problems: list[str]
) -> None:
    _check_source(draft, ("model", "image", "build"), path, posture, problems)
    if "model" in draft and "command" in draft:
        allowed = "`command` with image or build; a model runs on the serving image's own server"
        problems.append(problem(f"{path}.command", "is refused", allowed, "remove it"))
    if "model" not in draft:
        if "port" not in draft:
            problems.append(missing(f"{path}.port", v.PORT))
        if "health" not in draft:
            problems.append(missing(f"{path}.health", Record(of=Health)))
    for name in sorted(_entries(draft, "env").keys() & _entries(draft, "secrets").keys()):
        finding = f"is in {path}.env as well"
        problems.append(problem(f"{path}.secrets.{name}", finding, "each name once", "remove one of the two"))
    replicas = _entries(draft, "replicas")
    low, high = replicas.get("min"), replicas.get("max")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        finding = f"is {low}, more than max, which is {high}"
        problems.append(problem(f"{path}.replicas.min", finding, "min up to max", f"write {high} or less"))


def _entries(draft: Mapping[str, Any], field_name: str) -> Mapping[str, Any]:
    value = draft.get(field_name, INVALID)
    return {} if value is INVALID else value


def _service(name: str, draft: dict[str, Any], posture: PostureDefaults) -> Service:
    bounds = draft.pop("replicas", {})
    low = bounds.get("min", min(posture.replicas.min, bounds.get("max", posture.replicas.min)))
    replicas = Replicas(min=low, max=bounds.get("max", max(posture.replicas.max, low)))
    if "model" in draft:
        draft = {"port": MODEL_PORT, "health": MODEL_HEALTH} | draft
    return Service(name=name, replicas=replicas, **draft)
