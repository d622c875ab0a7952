"""The offline engine against small programs: what is declared, in both modes, and what is refused. No network."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import select_engine, to_json
from engine.apply import problem
from engine.evaluate import Child, evaluate
from engine.offline import OfflineEngine
from engine.plan import SECRET, UNKNOWN, EngineError, Operation, Plan, Resource
from engine.program import Outcome, Program, Registration

PROGRAMS = Path(__file__).parent / "programs"
BOTH_MODES = pytest.mark.parametrize("dry_run", [True, False], ids=["preview", "update"])


def program(name: str, **fields: Any) -> Program:
    directory = PROGRAMS / name
    file = directory / "Pulumi.dev.yaml"
    return Program(directory=directory, project=name, stack="dev", config_file=file, **fields)


def run(it: Program, *, dry_run: bool = True, **execute: Any) -> Plan:
    with Child(it) as child:
        return evaluate(child, dry_run=dry_run, **execute)


@pytest.fixture(scope="module", params=[True, False], ids=["preview", "update"])
def graph(request: pytest.FixtureRequest) -> dict[str, Resource]:
    return by_name(run(program("graph"), dry_run=request.param))


def by_name(plan: Plan) -> dict[str, Resource]:
    return {resource.name: resource for resource in plan.resources}


@pytest.mark.parametrize(
    ("name", "qualified_type"),
    [
        ("graph-dev", "pulumi:pulumi:Stack"),
        ("cluster", "pulumi:providers:kubernetes"),
        ("outer", "graph:index:Outer"),
        ("outer-inner", "graph:index:Outer$graph:index:Inner"),
        ("outer-inner-first", "graph:index:Outer$graph:index:Inner$kubernetes:core/v1:ConfigMap"),
        ("child", "kubernetes:core/v1:Namespace$kubernetes:core/v1:ConfigMap"),
        ("renamed", "kubernetes:core/v1:ConfigMap"),
    ],
)
def test_a_urn_has_the_whole_chain_of_parent_types_without_the_stack(
    graph: dict[str, Resource], name: str, qualified_type: str
) -> None:
    assert graph[name].urn == f"urn:pulumi:dev::graph::{qualified_type}::{name}"


def test_every_resource_has_a_parent_but_the_stack(graph: dict[str, Resource]) -> None:
    stack = graph["graph-dev"].urn
    assert graph["graph-dev"].parent == ""
    assert graph["outer"].parent == graph["cluster"].parent == graph["renamed"].parent == stack
    assert graph["outer-inner-first"].parent == graph["outer-inner"].urn
    assert graph["child"].parent == graph["space"].urn


@pytest.mark.parametrize("name", ["outer-inner-first", "outer-inner-second", "child", "renamed", "space"])
def test_the_provider_is_inherited_through_components_and_resources(
    graph: dict[str, Resource], name: str
) -> None:
    assert graph[name].provider == graph["cluster"].urn


@pytest.mark.parametrize(
    ("name", "protect", "retain"),
    [
        ("outer", True, False),
        ("outer-inner", True, False),
        ("outer-inner-first", True, False),
        ("outer-inner-second", False, False),
        ("space", False, True),
        ("child", False, True),
        ("secret", True, False),
        ("renamed", False, False),
    ],
)
def test_protect_and_retain_on_delete_are_inherited_unless_said_otherwise(
    graph: dict[str, Resource], name: str, protect: bool, retain: bool
) -> None:
    assert (graph[name].protect, graph[name].retain_on_delete) == (protect, retain)


def test_dependencies_come_from_inputs_and_from_depends_on(graph: dict[str, Resource]) -> None:
    first, second = graph["outer-inner-first"].urn, graph["outer-inner-second"].urn
    assert graph["outer-inner-second"].dependencies == (first,)
    assert graph["outer-inner-second"].property_dependencies["data"] == (first,)
    assert graph["outer-inner-second"].property_dependencies["metadata"] == ()
    assert graph["renamed"].dependencies == (first, second)  # a component stands for its children
    assert graph["outer-inner-second"].ignore_changes == ("data",)


def test_aliases_are_urns(graph: dict[str, Resource]) -> None:
    assert graph["renamed"].aliases == (
        "urn:pulumi:dev::graph::kubernetes:core/v1:ConfigMap::former",
        "urn:pulumi:dev::graph::graph:index:Outer$kubernetes:core/v1:ConfigMap::renamed",
        "urn:pulumi:dev::graph::kubernetes:core/v2:ConfigMap::renamed",
    )


def test_inputs_are_as_registered_with_secrets_masked_and_unknowns_named(graph: dict[str, Resource]) -> None:
    assert graph["mixed"].inputs["data"] == {"hidden": SECRET, "unknown": UNKNOWN, "plain": "shown"}
    assert graph["secret"].inputs["stringData"] == SECRET
    assert graph["secret"].inputs["metadata"] == {"name": "secret", "namespace": "default"}
    assert graph["outer"].inputs == {"given": "outer"}


def test_outputs_of_components_and_of_the_stack_are_kept(graph: dict[str, Resource]) -> None:
    assert graph["outer"].outputs == {"mode": "batch"}
    assert graph["graph-dev"].outputs == {
        "mode": "batch",
        "numbers": {"whole": 3, "part": 0.5},
        "secret": SECRET,
    }


@BOTH_MODES
def test_no_secret_is_left_anywhere_in_a_plan(dry_run: bool) -> None:
    text = json.dumps(to_json(run(program("graph"), dry_run=dry_run)))
    assert SECRET in text
    assert "correct-horse" not in text
    assert "battery-staple" not in text


def test_two_plans_of_one_program_are_equal_and_carry_a_schema() -> None:
    first, second = (to_json(run(program("graph"))) for _ in range(2))
    assert first == second
    assert (first["schema"], first["kind"]) == (1, "plan")


def test_a_cloud_is_planned_without_its_sdk_network_or_credentials() -> None:
    plan = run(program("clouds"))
    resources = by_name(plan)
    assert resources["models"].inputs == {"name": "models", "key": UNKNOWN, "token": SECRET}
    assert resources["models"].protect
    assert resources["models"].provider == resources["europe"].urn
    assert resources["found"].read
    assert plan.outputs == {"url": UNKNOWN, "registry": UNKNOWN}


@BOTH_MODES
def test_outputs_of_another_stack_are_those_handed_in(dry_run: bool) -> None:
    references = {"organization/clouds/shared": {"registry": "registry.example"}}
    plan = run(program("clouds", stack_references=references), dry_run=dry_run)
    assert plan.outputs["registry"] == "registry.example"


def test_a_cloud_is_never_applied_and_everything_in_the_way_is_listed(tmp_path: Path) -> None:
    engine = OfflineEngine(program("clouds"), tmp_path)
    with pytest.raises(EngineError) as caught:
        engine.up(lambda _: None)
    for line in (
        "models (cloud:index:Bucket): not a kind that it applies",
        "europe (pulumi:providers:cloud): not a kind that it applies",
        "--engine pulumi can",
    ):
        assert line in str(caught.value)
    assert [it.suffix for it in tmp_path.iterdir()] == [
        ".lock"
    ]  # nothing was brought up, nothing is remembered


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"type_": "apps/v1:StatefulSet"}, "not a kind that it applies"),
        ({"type_": "core/v1:ConfigMap", "metadata": {}}, "no metadata.name"),
        ({"type_": "core/v1:ConfigMap", "metadata": {"name": "x"}}, "no metadata.namespace"),
        ({"type_": "core/v1:ConfigMap", "metadata": UNKNOWN}, "no metadata.name that is known"),
        ({"type_": "core/v1:Namespace", "metadata": {"name": UNKNOWN}}, "no metadata.name that is known"),
        ({"type_": "core/v1:Namespace", "metadata": {"name": "x"}, "protect": True}, "protect and retain"),
        ({"type_": "core/v1:Namespace", "metadata": {"name": "x"}, "read": True}, "reads an object"),
        ({"type_": "core/v1:Namespace", "metadata": {"name": "x"}}, ""),
        ({"type_": "core/v1:ConfigMap", "metadata": {"name": "x", "namespace": "y"}}, ""),
    ],
)
def test_what_cannot_be_applied_is_known_from_its_declaration(declared: dict[str, Any], reason: str) -> None:
    metadata, type_ = declared.pop("metadata", {}), f"kubernetes:{declared.pop('type_')}"
    inputs = {"metadata": metadata}
    found = problem(Resource(urn="u", type=type_, name="n", custom=True, inputs=inputs, **declared))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_a_preview_without_a_cluster_creates_everything(tmp_path: Path) -> None:
    engine = select_engine(
        "offline",
        project_dir=PROGRAMS / "kubernetes_app",
        project="sample",
        stack="dev",
        config_file=PROGRAMS / "kubernetes_app/Pulumi.dev.yaml",
        state_dir=tmp_path,
        environment={"KUBECONFIG": str(tmp_path / "none")},
    )
    preview = engine.preview()
    assert preview.counts == {"create": 5}
    (deployment,) = [change for change in preview.changes if change.name == "web-deployment"]
    assert deployment.operation is Operation.CREATE
    properties = {change.path: (change.old, change.new) for change in deployment.changes}
    assert properties["spec.template.spec.containers[web].ports[8080].containerPort"] == (None, 8080)
    assert "hunter2" not in json.dumps(to_json(preview))
    assert list(tmp_path.iterdir()) == []


# Programs of a few lines, for what goes wrong.

HEAD = "import pulumi\nfrom pulumi import ResourceOptions, CustomResource\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Program]:
    def write(source: str, config: str = "config: {}", project: str = "") -> Program:
        (tmp_path / "Pulumi.yaml").write_text(f"name: bad\nruntime: python\n{project}")
        (tmp_path / "Pulumi.dev.yaml").write_text(config)
        (tmp_path / "__main__.py").write_text(HEAD + textwrap.dedent(source))
        return Program(
            directory=tmp_path, project="bad", stack="dev", config_file=tmp_path / "Pulumi.dev.yaml"
        )

    return write


@BOTH_MODES
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('no such thing')", "__main__.py:3: ValueError: no such thing"),
        ("import helper", "__main__.py:3: ModuleNotFoundError: No module named 'helper'"),
        ("x = (", "__main__.py:3: SyntaxError: '(' was never closed"),
        ("raise pulumi.RunError('stop: fix the stack file')", "stop: fix the stack file"),
        ("pulumi.log.error('three\\nlines\\nof it')", "three\nlines\nof it"),
        ("raise SystemExit(3)", "the program exited with status 3"),
        (
            "pulumi.Output.from_input(1).apply(lambda _: {}['key'])",
            "__main__.py:3: KeyError: 'key'",
        ),
        (
            "for _ in range(2): CustomResource('a:b:C', 'same')",
            "Duplicate resource URN 'urn:pulumi:dev::bad::a:b:C::same'; try giving it a unique name",
        ),
        (
            "pulumi.runtime.register_resource_transform(lambda args: None)",
            "the program calls RegisterStackTransform: the offline engine does not support that; "
            "use --engine pulumi",
        ),
        (
            "pulumi.runtime.call('a:b:c', {})",
            "the program calls Call: the offline engine does not support that; use --engine pulumi",
        ),
        (
            "pulumi.ComponentResource('a:b:C', 'far', {}, None, remote=True)",
            "far (a:b:C) uses the option remote: the offline engine does not support that; "
            "use --engine pulumi",
        ),
        (
            "CustomResource('a:b:C', 'old', {}, ResourceOptions(import_='id'))",
            "old (a:b:C) uses the option importId: the offline engine does not support that; "
            "use --engine pulumi",
        ),
    ],
)
def test_a_failing_program_is_one_clear_error(
    write: Callable[..., Program], source: str, message: str, dry_run: bool
) -> None:
    with pytest.raises(EngineError) as caught:
        run(write(source), dry_run=dry_run)
    assert str(caught.value) == message


def test_a_denied_default_provider_is_refused_as_the_real_engine_does(write: Callable[..., Program]) -> None:
    project = "config:\n  pulumi:disable-default-providers:\n    value: [a]\n"
    with pytest.raises(EngineError, match=r"Default provider for 'a' disabled\. 'a:b:C' must use"):
        run(write("CustomResource('a:b:C', 'x')", project=project))
    assert run(write("CustomResource('z:b:C', 'x')", project=project)).resources


def test_what_the_program_logs_and_prints_is_passed_on_without_its_secrets(
    write: Callable[..., Program],
) -> None:
    source = """
    pulumi.log.warn('careful')
    pulumi.export('token', pulumi.Output.secret('very-secret'))
    print('printed')
    """
    said = {(message.severity, message.text) for message in run(write(source)).messages}
    assert said == {("warning", "careful"), ("info", "printed")}


def test_an_error_never_quotes_a_secret(write: Callable[..., Program]) -> None:
    source = "CustomResource('a:b:C', 'x', {'token': pulumi.Output.secret('very-secret')})"

    def quoting(_: Registration) -> Outcome:
        raise EngineError('invalid value: "very-secret"')

    with pytest.raises(EngineError) as caught:
        run(write(source), dry_run=False, execute=quoting)
    assert str(caught.value) == f'invalid value: "{SECRET}"'


def test_configuration_is_the_projects_then_the_stacks(write: Callable[..., Program]) -> None:
    project = """config:
  fromDefault: {type: string, default: d}
  overridden: {type: string, default: d}
  declaredOnly: {type: string}
  plain: p
"""
    stack = "config:\n  bad:overridden: s\n  bad:object: {list: [1, true]}\n  bad:yes: true\n  other:key: k\n"
    source = """
    config = pulumi.Config()
    for key in ('fromDefault', 'overridden', 'plain'):
        pulumi.export(key, config.require(key))
    assert config.get('declaredOnly') is None
    pulumi.export('object', config.require_object('object'))
    pulumi.export('yes', config.require_bool('yes'))
    pulumi.export('other', pulumi.Config('other').require('key'))
    """
    assert run(write(source, stack, project)).outputs == {
        "fromDefault": "d",
        "overridden": "s",
        "plain": "p",
        "object": {"list": [1, True]},
        "yes": True,
        "other": "k",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("config: {bad:key: {secure: v1:abc}}", "bad:key is encrypted, which only the Pulumi CLI can read"),
        ("config: [", "not YAML"),
        ("- a list", "must be a mapping, not list"),
    ],
)
def test_a_stack_file_that_cannot_be_used_is_one_clear_error(
    write: Callable[..., Program], config: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        run(write("", config))


def test_the_program_runs_in_its_directory_and_finds_its_modules(write: Callable[..., Program]) -> None:
    it = write("import os, own\npulumi.export('cwd', os.getcwd())\npulumi.export('own', own.VALUE)")
    (it.directory / "own.py").write_text("VALUE = 7")
    assert run(it).outputs == {"cwd": str(it.directory), "own": 7}


def test_outputs_of_a_resource_reach_the_program_in_an_update(write: Callable[..., Program]) -> None:
    source = """
    class Thing(CustomResource):
        address: pulumi.Output[str]
        port: pulumi.Output[int]
    thing = Thing('a:b:C', 'x', {'address': None, 'port': None, 'secret': pulumi.Output.secret('s3cret')})
    pulumi.export('url', pulumi.Output.format('http://{0}:{1}', thing.address, thing.port))
    pulumi.export('id', thing.id)
    """
    live = {"address": "10.0.0.1", "port": 80, "secret": "s3cret"}
    seen: list[Registration] = []

    def create(registration: Registration) -> Outcome:
        seen.append(registration)
        return Outcome(id="ns/x", outputs=live)

    plan = run(write(source), dry_run=False, execute=create)
    assert plan.outputs == {"url": "http://10.0.0.1:80", "id": "ns/x"}
    assert seen[0].resource.inputs == {"secret": SECRET}
