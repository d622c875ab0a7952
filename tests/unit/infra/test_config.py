"""Every rule of the configuration, by what a user reads when it is broken."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import config, manifests
from infra.config import ConfigError, Posture, Replicas, Settings

DIGEST = 64 * "a"
IMAGE = f"registry.example/scorer@sha256:{DIGEST}"
ROOT = Path(__file__).parents[3]
STACKS = sorted((ROOT / "stacks").glob("Pulumi.*.yaml"))

Values = dict[str, Any]


def valid() -> Values:
    return {
        "target": "local",
        "layer": "environment",
        "posture": "development",
        "servingImage": {"build": "serving_image"},
        "services": {
            "iris": {"model": {"name": "iris", "version": "1", "sha256": DIGEST}, "nodePort": 30080},
            "scorer": {
                "image": IMAGE,
                "port": 9000,
                "health": {"ready": "/healthz", "live": "/livez"},
                "env": {"MODE": "batch"},
                "secrets": {"DB_URL": {"name": "scorer-db", "key": "url"}},
                "resources": {"cpu": 1, "memory": "2Gi", "gpu": 1},
                "command": ["gunicorn", "app"],
                "replicas": {"min": 2, "max": 3},
            },
        },
        "local": {
            "kubeContext": "maas",
            "imageRegistry": "maas.local",
            "modelStore": "file:///srv/models",
            "images": {"serving_image": IMAGE},
        },
    }


def put(path: str, value: object) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            values = values[parent]
        values[last] = value

    return change


def drop(path: str) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            values = values[parent]
        del values[last]

    return change


def problems(*changes: Callable[[Values], None]) -> tuple[str, ...]:
    values = copy.deepcopy(valid())
    for change in changes:
        change(values)
    with pytest.raises(ConfigError) as caught:
        config.parse(values)
    return caught.value.problems


def parsed(*changes: Callable[[Values], None]) -> Settings:
    values = copy.deepcopy(valid())
    for change in changes:
        change(values)
    return config.parse(values)


@pytest.mark.parametrize("file", STACKS, ids=lambda file: file.name)
def test_every_committed_stack_file_is_valid_and_holds_no_facts_of_a_machine(file: Path) -> None:
    settings = config.parse(config.own_values(yaml.safe_load(file.read_text())["config"]))
    assert settings.local is None


def test_the_quick_start_names_the_committed_model_by_its_digest() -> None:
    file = ROOT / "stacks" / "Pulumi.local.yaml"
    settings = config.parse(config.own_values(yaml.safe_load(file.read_text())["config"]))
    model = settings.services["iris"].model
    assert model is not None
    manifest = ROOT / "examples" / "models" / model.name / model.version / "manifest.json"
    assert model.sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_values_may_be_the_json_text_that_pulumi_hands_on() -> None:
    as_text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in valid().items()}
    assert config.parse(as_text) == config.parse(valid())


def test_services_have_one_order_whatever_the_order_in_the_file() -> None:
    values = valid()
    values["services"] = dict(reversed(values["services"].items()))
    assert list(config.parse(values).services) == ["iris", "scorer"]


def test_a_model_gets_the_serving_images_port_and_paths() -> None:
    iris = parsed().services["iris"]
    assert (iris.port, iris.health.ready, iris.health.live) == (8080, "/v2/health/ready", "/v2/health/live")


def test_numbers_of_cores_become_quantities() -> None:
    assert parsed().services["scorer"].resources.cpu == "1"
    assert parsed(put("services/scorer/resources/cpu", 0.5)).services["scorer"].resources.cpu == "0.5"


def test_an_image_comes_from_the_service_or_for_a_model_from_the_stack() -> None:
    settings = parsed()
    assert settings.image_of(settings.services["iris"]).build == "serving_image"
    assert settings.image_of(settings.services["scorer"]).image == IMAGE


@pytest.mark.parametrize(
    ("posture", "replicas", "expected"),
    [
        (Posture.DEVELOPMENT, None, (1, 2)),
        (Posture.EPHEMERAL, None, (1, 2)),
        (Posture.PRODUCTION, None, (2, 6)),
        (Posture.DEVELOPMENT, {"min": 4}, (4, 4)),
        (Posture.PRODUCTION, {"max": 1}, (1, 1)),
        (Posture.PRODUCTION, {"min": 3}, (3, 6)),
    ],
)
def test_replicas_default_by_posture_and_never_cross(
    posture: Posture, replicas: object, expected: tuple[int, int]
) -> None:
    changes = [put("posture", posture.value), put("servingImage", {"image": IMAGE})]
    if replicas is not None:
        changes.append(put("services/iris/replicas", replicas))
    low, high = expected
    assert parsed(*changes).services["iris"].replicas == Replicas(min=low, max=high)


@pytest.mark.parametrize("posture", Posture)
def test_a_rollout_may_last_longer_than_a_start(posture: Posture) -> None:
    assert config.POSTURES[posture].progress_deadline_seconds > manifests.START_SECONDS


RULES: list[tuple[str, Callable[[Values], None], str, str, str]] = [
    (
        "a required key",
        drop("target"),
        "model-serving:target is missing",
        "local",
        "add it, for example local",
    ),
    (
        "a word of a closed vocabulary",
        put("posture", "prodution"),
        'model-serving:posture is "prodution"',
        "development or production or ephemeral",
        "did you mean production?",
    ),
    (
        "a target that exists",
        put("target", "azure"),
        'model-serving:target is "azure"',
        "local",
        "write for example local",
    ),
    (
        "a known key at the top",
        put("servingimage", {}),
        "model-serving:servingimage is not a known key",
        "target, layer, posture, servingImage, services, local",
        "did you mean servingImage?",
    ),
    (
        "a known key deeper",
        put("services/scorer/resources/memroy", "1Gi"),
        "model-serving:services.scorer.resources.memroy is not a known key",
        "cpu, memory, gpu",
        "did you mean memory?",
    ),
    (
        "a key that resembles none",
        put("services/scorer/xyz", 1),
        "model-serving:services.scorer.xyz is not a known key",
        "model, image, build, port, health, env, secrets, resources, command, replicas, nodePort",
        "remove it",
    ),
    (
        "a key of this project",
        put("model-severing:posture", "production"),
        "model-severing:posture is read by nothing",
        "keys that start with model-serving: or pulumi:",
        "write model-serving:posture if that was meant, else remove it",
    ),
    (
        "a mapping where one belongs",
        put("services/iris", None),
        "model-serving:services.iris is null",
        "a mapping with the keys model, image, build, port, health, env, secrets, resources, command,"
        " replicas, nodePort",
        "write `key: value` lines below it, or {} for none",
    ),
    (
        "a service name",
        put("services/Iris_2", {"image": IMAGE, "port": 1, "health": {"ready": "/", "live": "/"}}),
        'the name model-serving:services.Iris_2 is "Iris_2"',
        "a lower-case letter, then lower-case letters, digits and hyphens, 40 characters at most",
        'write for example "iris"',
    ),
    (
        "one of model, image and build",
        put("services/iris/image", IMAGE),
        "model-serving:services.iris has model and image",
        "exactly one of model, image, build",
        "keep one of them",
    ),
    (
        "at least one of model, image and build",
        drop("services/scorer/image"),
        "model-serving:services.scorer has none of model, image, build",
        "exactly one of model, image, build",
        "add one of them",
    ),
    (
        "one kind of serving image",
        put("servingImage", {}),
        "model-serving:servingImage has none of image, build",
        "exactly one of image, build",
        "add one of them",
    ),
    (
        "a serving image for models",
        drop("servingImage"),
        "model-serving:servingImage is missing",
        "a mapping with the keys image, build",
        "add it",
    ),
    (
        "a port for other images",
        drop("services/scorer/port"),
        "model-serving:services.scorer.port is missing",
        "a whole number from 1 to 65535",
        "add it, for example 8080",
    ),
    (
        "health paths for other images",
        drop("services/scorer/health"),
        "model-serving:services.scorer.health is missing",
        "a mapping with the keys ready, live",
        "add it",
    ),
    (
        "both health paths",
        drop("services/scorer/health/live"),
        "model-serving:services.scorer.health.live is missing",
        "a path that starts with /",
        'add it, for example "/healthz"',
    ),
    (
        "a path",
        put("services/scorer/health/live", "livez"),
        'model-serving:services.scorer.health.live is "livez"',
        "a path that starts with /",
        'write for example "/healthz"',
    ),
    (
        "an image by digest",
        put("services/scorer/image", "registry.example/scorer:latest"),
        'model-serving:services.scorer.image is "registry.example/scorer:latest"',
        "an image by digest: host/repository@sha256:<64 hexadecimal digits>",
        "a tag can move: `docker buildx imagetools inspect registry.example/scorer:latest` prints the"
        " digest to write instead",
    ),
    (
        "a folder of the repository",
        put("servingImage/build", "../elsewhere"),
        'model-serving:servingImage.build is "../elsewhere"',
        "a folder with a Dockerfile, relative to the repository",
        'write for example "examples/flask"',
    ),
    (
        "a version, not latest",
        put("services/iris/model/version", "latest"),
        'model-serving:services.iris.model.version is "latest"',
        "letters, digits, dots, underscores and hyphens, 63 characters at most, not `latest`",
        'write for example "1"',
    ),
    (
        "a version in quotes",
        put("services/iris/model/version", 1),
        "model-serving:services.iris.model.version is 1",
        "letters, digits, dots, underscores and hyphens, 63 characters at most, not `latest`",
        "put it in quotes: YAML reads it as a number or a boolean",
    ),
    (
        "a digest of a model",
        put("services/iris/model/sha256", "5d0c"),
        'model-serving:services.iris.model.sha256 is "5d0c"',
        "the 64 hexadecimal digits of the model's digest",
        "take it from `maas models`, or from sha256sum of the version's manifest.json",
    ),
    (
        "a port in range",
        put("services/scorer/port", 70000),
        "model-serving:services.scorer.port is 70000",
        "a whole number from 1 to 65535",
        "write for example 8080",
    ),
    (
        "a port without quotes",
        put("services/scorer/port", "9000"),
        'model-serving:services.scorer.port is "9000"',
        "a whole number from 1 to 65535",
        "write the number without quotes",
    ),
    (
        "a node port in range",
        put("services/iris/nodePort", 80),
        "model-serving:services.iris.nodePort is 80",
        "a whole number from 30000 to 32767",
        "write for example 30080",
    ),
    (
        "a node port once",
        put("services/scorer/nodePort", 30080),
        "model-serving:services.scorer.nodePort is 30080, which model-serving:services.iris has",
        "a whole number from 30000 to 32767",
        "choose one that is free",
    ),
    (
        "a name of a variable",
        put("services/scorer/env/mode", "batch"),
        'the name model-serving:services.scorer.env.mode is "mode"',
        "upper-case letters, digits and underscores, not one of AIP_HTTP_PORT, DRAIN_SECONDS, "
        "MODEL_NAME, MODEL_SHA256, MODEL_URI, MODEL_VERSION, PORT",
        'write for example "LOG_LEVEL"',
    ),
    (
        "a variable that is not the platform's",
        put("services/scorer/secrets/MODEL_URI", {"name": "a", "key": "b"}),
        'the name model-serving:services.scorer.secrets.MODEL_URI is "MODEL_URI"',
        "upper-case letters, digits and underscores, not one of AIP_HTTP_PORT, DRAIN_SECONDS, "
        "MODEL_NAME, MODEL_SHA256, MODEL_URI, MODEL_VERSION, PORT",
        "choose another name: the platform sets this one",
    ),
    (
        "a variable's value as text",
        put("services/scorer/env/DEBUG", True),
        "model-serving:services.scorer.env.DEBUG is refused",
        "text",
        "put it in quotes: YAML reads it as a number or a boolean",
    ),
    (
        "a variable once",
        put("services/scorer/env/DB_URL", "x"),
        "model-serving:services.scorer.secrets.DB_URL is in model-serving:services.scorer.env as well",
        "each name once",
        "remove one of the two",
    ),
    (
        "a quantity of CPU",
        put("services/scorer/resources/cpu", "0m"),
        'model-serving:services.scorer.resources.cpu is "0m"',
        "cores, such as 1 or 0.5, or millicores, such as 250m",
        'write for example "250m"',
    ),
    (
        "a unit of memory",
        put("services/scorer/resources/memory", "512"),
        'model-serving:services.scorer.resources.memory is "512"',
        "a whole number with the unit Mi, Gi, M or G",
        "add a unit: 512Mi",
    ),
    (
        "whole GPUs",
        put("services/scorer/resources/gpu", 0.5),
        "model-serving:services.scorer.resources.gpu is 0.5",
        "a whole number from 0 to 64",
        "write for example 1",
    ),
    (
        "a command as a list",
        put("services/scorer/command", "gunicorn app"),
        'model-serving:services.scorer.command is "gunicorn app"',
        "a list of one or more: text",
        'write for example ["gunicorn"]',
    ),
    (
        "no command for a model",
        put("services/iris/command", ["sh"]),
        "model-serving:services.iris.command is refused",
        "`command` with image or build; a model runs on the serving image's own server",
        "remove it",
    ),
    (
        "at least one replica",
        put("services/scorer/replicas/min", 0),
        "model-serving:services.scorer.replicas.min is 0",
        "a whole number, 1 or more",
        "write for example 2",
    ),
    (
        "min up to max",
        put("services/scorer/replicas/min", 5),
        "model-serving:services.scorer.replicas.min is 5, more than max, which is 3",
        "min up to max",
        "write 3 or less",
    ),
    (
        "facts about the machine",
        drop("local/kubeContext"),
        "model-serving:local.kubeContext is missing",
        "the name of a context in the kubeconfig",
        'add it, for example "kind-kind"',
    ),
    (
        "built images by digest",
        put("local/images/serving_image", "maas.local/serving:1"),
        'model-serving:local.images.serving_image is "maas.local/serving:1"',
        "an image by digest: host/repository@sha256:<64 hexadecimal digits>",
        "a tag can move: `docker buildx imagetools inspect maas.local/serving:1` prints the digest to"
        " write instead",
    ),
]


@pytest.mark.parametrize(
    ("change", "finding", "allowed", "fix"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_a_broken_rule_names_key_value_allowed_set_and_fix(
    change: Callable[[Values], None], finding: str, allowed: str, fix: str
) -> None:
    assert problems(change) == (f"{finding}; allowed: {allowed}; fix: {fix}",)


@pytest.mark.parametrize("path", ["servingImage", "services/scorer"])
def test_production_builds_no_image(path: str) -> None:
    values = valid() | {"posture": "production", "servingImage": {"image": IMAGE}}
    if path == "servingImage":
        values[path] = {"build": "serving_image"}
    else:
        del values["services"]["scorer"]["image"]
        values["services"]["scorer"]["build"] = "examples/flask"
    with pytest.raises(ConfigError) as caught:
        config.parse(values)
    assert caught.value.problems == (
        f"model-serving:{path.replace('/', '.')}.build is refused; "
        "allowed: `image` by digest in production; `build` in development and ephemeral; "
        "fix: build and push the image in a pipeline and write its digest",
    )


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("file:///srv/models", True),
        ("s3://models", True),
        ("https://models.example:8443/store", True),
        ("file:///", False),
        ("file://host/models", False),
        ("file:///srv/../etc", False),
        ("/srv/models", False),
        ("ftp://models.example", False),
        ("https://models.example:99999", False),
        ("https://user:hunter2@models.example", False),
        ("https://models.example/?sig=hunter2", False),
    ],
)
def test_a_model_store_is_a_url_without_credentials(url: str, allowed: bool) -> None:
    change = put("local/modelStore", url)
    if allowed:
        local = parsed(change).local
        assert local is not None
        assert local.model_store == url
    else:
        (message,) = problems(change)
        assert message.startswith(
            "model-serving:local.modelStore is refused; allowed: a URL without credentials"
        )


@pytest.mark.parametrize(
    "change",
    [
        put("services/scorer/secrets/DB_URL", "hunter2"),
        put("services/scorer/secrets/DB_URL", {"name": "hunter2!", "key": "url"}),
        put("services/scorer/secrets", "hunter2"),
        put("services/scorer/env", "TOKEN=hunter2"),
        put("services/scorer/env/TOKEN", ["hunter2"]),
        put("services/scorer/env/TOKEN", {"secure": "hunter2"}),
        put("local/modelStore", "https://user:hunter2@models.example"),
    ],
)
def test_what_may_be_a_secret_is_in_no_message(change: Callable[[Values], None]) -> None:
    assert "hunter2" not in str(problems(change))


def test_all_problems_are_reported_together() -> None:
    found = problems(
        drop("target"),
        put("posture", "prod"),
        put("services/iris/model/version", "latest"),
        put("services/iris/nodePort", 1),
        put("services/scorer/prot", 9000),
        drop("services/scorer/port"),
        put("services/scorer/replicas", {"min": 3, "max": 1}),
        put("services/broken", "text"),
        put("gcp:project", "x"),
    )
    assert [message.partition(" ")[0] for message in found] == [
        "gcp:project",
        "model-serving:target",
        "model-serving:posture",
        "model-serving:services.broken",
        "model-serving:services.iris.model.version",
        "model-serving:services.iris.nodePort",
        "model-serving:services.scorer.prot",
        "model-serving:services.scorer.port",
        "model-serving:services.scorer.replicas.min",
    ]


def test_the_message_has_one_line_for_each_problem() -> None:
    error = ConfigError(["first", "second"])
    assert str(error) == "2 problems in the configuration:\n  first\n  second"
    assert str(ConfigError(["only"])) == "1 problem in the configuration:\n  only"


def test_own_values_drop_the_prefix_and_pulumis_own_keys() -> None:
    config_of_stack = {
        "model-serving:target": "local",
        "pulumi:disable-default-providers": "[]",
        "gcp:project": "x",
    }
    assert config.own_values(config_of_stack) == {"target": "local", "gcp:project": "x"}


def test_an_encrypted_value_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        config.own_values({"model-serving:services": "hunter2"}, ["model-serving:services"])
    (message,) = caught.value.problems
    assert message.startswith("model-serving:services is encrypted; allowed: ")
    assert "hunter2" not in message
