"""Which platform a stack runs on, and what a deployment writes before it brings anything up."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import local, platforms
from cli.local import Chosen
from engine.plan import EngineError, Result
from machine.layout import Layout
from operations.errors import OperationError
from operations.inference import Exchange
from operations.stack_file import StackFile

ROOT = Path(__file__).parents[3]
DIRECTORY_OF_THE_SYSTEM = tempfile.gettempdir()
EXISTING = platforms.Existing(
    context="kind", registry_name="registry.example", model_store="s3://models", endpoint_host="192.0.2.1"
)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory that can be written, below a short path: unix sockets would live in it."""
    # Not by tempfile's default, which another fixture has changed to a long path.
    with tempfile.TemporaryDirectory(dir=DIRECTORY_OF_THE_SYSTEM) as directory:
        monkeypatch.setenv("MAAS_STATE_DIR", f"{directory}/state")
        monkeypatch.setenv("MAAS_CACHE_DIR", f"{directory}/cache")
        yield Path(directory, "state")


def test_a_stack_runs_on_the_built_in_platform_unless_told_otherwise() -> None:
    platform = local.choose("local").platform
    assert isinstance(platform, platforms.BuiltIn)
    assert (platform.context, platform.endpoint_host) == ("maas", "127.0.0.1")
    assert platform.model_store == platforms.layout().model_store.as_uri()


def test_a_stack_runs_on_the_cluster_that_was_named() -> None:
    options = {"registry": "registry.example", "store": "s3://models", "endpoint_host": "192.0.2.1"}
    chosen = local.choose("local", context="kind", **options)
    assert chosen.platform == EXISTING
    assert chosen.facts({"serving_image": "x"}) == {
        "kubeContext": "kind",
        "imageRegistry": "registry.example",
        "modelStore": "s3://models",
        "endpointHost": "192.0.2.1",
        "images": {"serving_image": "x"},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"registry": "registry.example"}, "--registry, --store, --endpoint-host: go with --context NAME"),
        ({"store": "s3://models"}, "--registry, --store, --endpoint-host: go with --context NAME"),
        ({"context": "kind"}, "--context kind: needs --registry HOST and --store URL"),
        (
            {"context": "kind", "registry": "registry.example"},
            "--context kind: needs --registry HOST and --store URL",
        ),
        (
            {"context": "kind", "store": "s3://models"},
            "--context kind: needs --registry HOST and --store URL",
        ),
    ],
)
def test_a_cluster_of_ones_own_is_named_whole(options: dict[str, str], message: str) -> None:
    with pytest.raises(OperationError, match=f"^{message}"):
        local.choose("local", **options)


def test_a_cluster_that_was_named_is_remembered_for_its_stack(state: Path) -> None:
    path = state / "stacks" / "local" / "cluster.json"
    path.parent.mkdir(parents=True)
    platforms.remember(path, EXISTING)
    assert local.choose("local").platform == EXISTING
    assert isinstance(local.choose("other").platform, platforms.BuiltIn)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"context": "kind"}', '{"nope": 1}'])
def test_a_memory_that_was_cut_off_is_refused_with_what_to_do(content: str, state: Path) -> None:
    path = state / "stacks" / "local" / "cluster.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(
        OperationError, match=f"^{path}: .*; remove it and give --context, --registry and --store again$"
    ):
        local.choose("local")


@pytest.mark.parametrize(
    ("uid", "environment", "state", "cache"),
    [
        (0, {}, "/var/lib/maas", "/var/cache/maas"),
        (1000, {"HOME": "/home/one"}, "/home/one/.local/state/maas", "/home/one/.cache/maas"),
        (1000, {"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/s/maas", "/c/maas"),
        (0, {"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/var/lib/maas", "/var/cache/maas"),
        (1000, {"MAAS_STATE_DIR": "/a", "MAAS_CACHE_DIR": "/b", "XDG_STATE_HOME": "/s"}, "/a", "/b"),
    ],
)
def test_directories_are_the_systems_for_root_and_the_users_own_for_anybody_else(
    uid: int, environment: dict[str, str], state: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAAS_STATE_DIR", "MAAS_CACHE_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert platforms.layout() == Layout(state=Path(state), cache=Path(cache))


# Deploy, as far as the stack file.


@pytest.fixture
def stacks(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's stack files to change, and a store with iris@1 and, of other content, iris@2 in it."""
    folder = tmp_path / "stacks"
    shutil.copytree(ROOT / "stacks", folder)
    monkeypatch.setattr(local, "STACKS", folder)
    monkeypatch.setattr(local, "ROOT", tmp_path)
    example = ROOT / "examples/models/iris/1"
    for version in ("1", "2"):
        home = state / "store/models/iris" / version
        shutil.copytree(example, home)
        manifest = json.loads((example / "manifest.json").read_text())
        if version != manifest["version"]:
            (home / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    return folder


@pytest.fixture
def brought_up(monkeypatch: pytest.MonkeyPatch) -> list[Chosen]:
    """What would have been brought up: the stack file must hold the change before that."""
    calls: list[Chosen] = []

    def up(chosen: Chosen, *arguments: object) -> tuple[Result, dict[str, Exchange]]:
        calls.append(chosen)
        return Result(engine="offline", project="", stack="local", counts={}, outputs={}, seconds=0), {}

    monkeypatch.setattr(local, "_up", up)
    return calls


def deploy(reference: str, service: str | None = None) -> str:
    output = io.StringIO()
    console = Console(file=output, soft_wrap=True, force_terminal=False)
    local.deploy(local.choose("local"), reference, service=service, engine_name=None, console=console)
    return output.getvalue()


def test_a_deployment_is_in_the_stack_file_before_anything_is_brought_up(
    stacks: Path, brought_up: list[Chosen]
) -> None:
    said = deploy("iris@2")
    (chosen,) = brought_up
    model = StackFile(stacks, "local").settings().services["iris"].model
    assert model is not None
    assert (model.version, model.sha256) == ("2", chosen.store().version("iris", "2").sha256)
    assert (
        "stacks/Pulumi.local.yaml: iris serves iris@2; to keep it: git commit stacks/Pulumi.local.yaml"
        in said
    )


def test_a_deployment_of_what_is_served_already_changes_no_file(
    stacks: Path, brought_up: list[Chosen]
) -> None:
    before = (stacks / "Pulumi.local.yaml").read_bytes()
    assert "to keep it" not in deploy("iris@1")
    assert (stacks / "Pulumi.local.yaml").read_bytes() == before
    assert len(brought_up) == 1


def test_a_deployment_that_does_not_get_ready_says_what_serves_and_the_way_back(
    stacks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up(*arguments: object) -> None:
        raise EngineError("pod iris-1: refused")

    monkeypatch.setattr(local, "_up", up)
    message = (
        r"^pod iris-1: refused\nstacks/Pulumi\.local\.yaml names iris@2, which is not in service; what was ready before"
        r" still is\. Back: \./maas deploy iris@1$"
    )
    with pytest.raises(OperationError, match=message):
        deploy("iris@2")
    with pytest.raises(EngineError, match=r"^pod iris-1: refused$"):
        deploy("iris@2")  # it is in the stack file by now: there is no way back to tell


@pytest.mark.parametrize(
    ("reference", "service", "message"),
    [
        ("iris", None, "model 'iris': expected NAME@VERSION"),
        ("iris@3", None, "model iris@3: not in file:.*; published are 1, 2"),
        ("wine@1", None, "model wine@1: not in file:"),
        ("iris@2", "rose", "service 'rose': not in Pulumi.local.yaml; there are: "),
        ("iris@2", "flask-iris", "service 'flask-iris' in Pulumi.local.yaml: runs an image"),
    ],
)
def test_a_deployment_that_cannot_be_leaves_everything_as_it_was(
    reference: str, service: str | None, message: str, stacks: Path, brought_up: list[Chosen]
) -> None:
    before = (stacks / "Pulumi.local.yaml").read_bytes()
    with pytest.raises(OperationError, match=f"^{message}"):
        deploy(reference, service)
    assert (stacks / "Pulumi.local.yaml").read_bytes() == before
    assert brought_up == []


def test_which_service_is_meant_is_asked_when_there_are_several_or_none(
    stacks: Path, brought_up: list[Chosen]
) -> None:
    path = stacks / "Pulumi.local.yaml"
    text = path.read_text()
    iris = text.partition("    iris:\n")[2].partition("    flask-iris:\n")[0]
    path.write_text(text + "    iris-canary:\n" + iris.replace("nodePort: 30080", "nodePort: 30082"))
    with pytest.raises(
        OperationError, match=r"^model 'iris': is served by iris, iris-canary; .* --service NAME$"
    ):
        deploy("iris@2")
    deploy("iris@2", "iris-canary")
    settings = StackFile(stacks, "local").settings()
    versions = {name: it.model.version for name, it in settings.services.items() if it.model}
    assert versions == {"iris": "1", "iris-canary": "2"}
    path.write_text(text.replace("name: iris", "name: wine"))
    with pytest.raises(
        OperationError, match=r"^model 'iris': is served by no service of Pulumi\.local\.yaml; "
    ):
        deploy("iris@2")


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("flask-iris", "^service 'flask-iris': serves no model; these do: iris$"),
        ("rose", "^service 'rose': serves no model; these do: iris$"),
    ],
)
def test_a_prediction_is_asked_of_a_service_that_serves_a_model(
    service: str, message: str, stacks: Path
) -> None:
    with pytest.raises(OperationError, match=message):
        local.predict(local.choose("local"), service, "[]")


def test_a_service_without_a_node_port_has_no_endpoint_to_ask(stacks: Path) -> None:
    path = stacks / "Pulumi.local.yaml"
    path.write_text(path.read_text().replace("      nodePort: 30080\n", ""))
    with pytest.raises(OperationError, match=r"^service 'iris': has no nodePort in the stack file"):
        local.predict(local.choose("local"), "iris", "[]")


def test_logs_are_asked_of_a_service_of_the_stack(stacks: Path) -> None:
    message = r"^service 'rose': not in Pulumi\.local\.yaml; there are: flask-iris, iris$"
    with pytest.raises(OperationError, match=message):
        local.logs(local.choose("local"), "rose", lines=5)


@pytest.mark.parametrize(
    "act",
    [
        lambda chosen: local.down(chosen, purge=True, console=Console(file=io.StringIO())),
        lambda chosen: local.up(chosen, engine_name=None, console=Console(file=io.StringIO())),
        lambda chosen: local.preview(chosen, engine_name=None),
        lambda chosen: local.status(chosen, console=Console(file=io.StringIO())),
    ],
    ids=["down", "up", "preview", "status"],
)
def test_a_stack_that_was_mistyped_is_refused_before_anything_is_touched(
    act: Callable[[Chosen], Any], stacks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[str] = []
    monkeypatch.setattr("machine.lifecycle.down", lambda *arguments, **options: touched.append("down"))
    monkeypatch.setattr("machine.lifecycle.up", lambda *arguments, **options: touched.append("up"))
    with pytest.raises(
        OperationError, match=r"^stack 'locla': there is no Pulumi\.locla\.yaml in stacks/; there are: local$"
    ):
        act(local.choose("locla"))
    assert touched == []
