"""What the CLI's events and diagnostics turn into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import EngineEvent

from engine.plan import SECRET, UNKNOWN, Operation, ResourceEvent, Status
from engine.pulumi_cli import _Run, concise
from engine.values import UNKNOWN_ON_THE_WIRE

URN = "urn:pulumi:dev::sample::kubernetes:apps/v1:Deployment::web"


def state(inputs: dict[str, Any], outputs: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"urn": URN, "custom": True, "inputs": inputs, "outputs": outputs or {}, **fields}


def event(kind: str, op: str, **metadata: Any) -> EngineEvent:
    step = {"op": op, "urn": URN, "type": "kubernetes:apps/v1:Deployment", **metadata}
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, kind: {"metadata": step}})


def changes(*events: EngineEvent) -> list[tuple[Operation, list[tuple[str, Any, Any]]]]:
    run = _Run(None)
    for it in events:
        run.on_event(it)
    found = run.changes.values()
    return [(it.operation, [(p.path, p.old, p.new) for p in it.changes]) for it in found]


@pytest.mark.parametrize(
    ("op", "metadata", "expected"),
    [
        ("create", {"new": state({"a": {"b": 1}})}, (Operation.CREATE, [("a.b", None, 1)])),
        ("same", {"old": state({"a": 1}), "new": state({"a": 1})}, (Operation.SAME, [])),
        ("delete", {"old": state({"a": 1})}, (Operation.DELETE, [])),
        (
            "update",
            {
                "old": state({}, {"spec": {"replicas": 2, "gone": 1}}),
                "new": state({"spec": {"replicas": 3}}),
                "detailedDiff": {
                    "spec.replicas": {"diffKind": "update"},
                    "spec.gone": {"diffKind": "delete"},
                },
            },
            (Operation.UPDATE, [("spec.gone", 1, None), ("spec.replicas", 2, 3)]),
        ),
        (
            "replace",
            {
                "old": state({"list": [{"a.b": "x"}]}),
                "new": state({"list": [{"a.b": UNKNOWN_ON_THE_WIRE}]}),
                "detailedDiff": {'list[0]["a.b"]': {"diffKind": "update-replace", "inputDiff": True}},
            },
            (Operation.REPLACE, [('list[0]["a.b"]', "x", UNKNOWN)]),
        ),
        (
            "update",
            {
                "old": state({"kind": "Secret"}, {"data": {"key": "b2xk"}}),
                "new": state({"kind": "Secret", "data": SECRET}),
                "detailedDiff": {"data.key": {"diffKind": "update"}},
            },
            (Operation.UPDATE, [("data.key", SECRET, SECRET)]),
        ),
        (
            "update",
            {
                "old": state({"key": SECRET}),
                "new": state({"key": SECRET}),
                "detailedDiff": {"key": {"diffKind": "update", "inputDiff": True}},
            },
            (Operation.UPDATE, [("key", SECRET, SECRET)]),
        ),
        (
            "create",
            {"new": state({"a": {"4dabf18193072939515e22adb298388d": "1b47", "ciphertext": "c"}})},
            (Operation.CREATE, [("a", None, SECRET)]),
        ),
    ],
)
def test_a_step_becomes_a_change_with_its_properties(
    op: str, metadata: dict[str, Any], expected: tuple[Operation, list[Any]]
) -> None:
    assert changes(event("resourcePreEvent", op, **metadata)) == [expected]


def test_only_managed_resources_count_and_a_replacement_counts_once() -> None:
    new = state({"a": 1})
    steps = [event("resourcePreEvent", op, old=new, new=new) for op in ("create-replacement", "replace")]
    steps.append(event("resourcePreEvent", "delete-replaced", old=new))
    assert [operation for operation, _ in changes(*steps)] == [Operation.REPLACE]
    assert changes(event("resourcePreEvent", "create", new=state({}, custom=False))) == []
    assert changes(event("resourcePreEvent", "create", type="pulumi:providers:kubernetes", new=new)) == []


def test_progress_is_reported_from_start_to_end() -> None:
    events: list[ResourceEvent] = []
    run = _Run(events.append)
    new = state({"a": 1})
    run.on_event(event("resourcePreEvent", "create", new=new))
    run.on_event(event("resOutputsEvent", "create", new=new))
    run.on_event(event("resOpFailedEvent", "create", new=new))
    assert [it.status for it in events] == [Status.STARTED, Status.DONE, Status.FAILED]
    assert {(it.name, it.operation) for it in events} == {("web", Operation.CREATE)}


def test_the_outputs_of_the_stack_are_kept_without_secrets() -> None:
    run = _Run(None)
    stack = {"outputs": {"url": "u", "token": SECRET}, "custom": False, "urn": URN}
    run.on_event(event("resOutputsEvent", "create", type="pulumi:pulumi:Stack", new=stack))
    assert run.outputs == {"url": "u", "token": SECRET}


def test_diagnostics_lose_their_colours_and_debug_lines() -> None:
    run = _Run(None)
    for severity, message in (
        ("error", "<{%fg 1%}>boom<{%reset%}>\n"),
        ("debug", "noise"),
        ("info#err", "x"),
    ):
        said = {"severity": severity, "message": message, "color": "raw"}
        run.on_event(EngineEvent.from_json({"sequence": 1, "timestamp": 1, "diagnosticEvent": said}))
    assert [(it.severity, it.text) for it in run.messages] == [("error", "boom"), ("info", "x")]


TRACEBACK = """Program failed with an unhandled exception:
Traceback (most recent call last):
  File "/repo/./__main__.py", line 7, in <module>
    program.run()
  File "/repo/infra/program.py", line 31, in run
    raise ConfigError(
    ^^^^^^^^^^^^^^^^^^
  File "/repo/.venv/lib/python3.11/site-packages/x.py", line 3, in y
    z
infra.config.ConfigError: two problems:
- one
- two"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (TRACEBACK, "infra/program.py:31: infra.config.ConfigError: two problems:\n- one\n- two"),
        ("update failed", "update failed"),
        ('Traceback (most recent call last):\n  File "/usr/x.py", line 1, in z\nOSError: x', "OSError: x"),
    ],
)
def test_a_diagnostic_has_the_users_line_and_no_traceback(message: str, expected: str) -> None:
    assert concise(message, Path("/repo")) == expected
