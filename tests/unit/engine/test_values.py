"""What a program's values turn into, and that a secret never gets out by the wrong door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from engine import values
from engine.plan import SECRET, UNKNOWN
from engine.values import UNKNOWN_ON_THE_WIRE, UNKNOWN_VALUE, Secret

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET_ON_THE_WIRE = {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "value": {"key": "hunter2"}}


def decoded(wire: dict[str, Any]) -> Any:
    return values.decode_struct(json_format.ParseDict(wire, struct_pb2.Struct()))


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (8080, 8080),
        (0.5, 0.5),
        (True, True),
        (None, None),
        ("text", "text"),
        ([1, "two"], [1, "two"]),
        ({"deep": [{"er": 1}]}, {"deep": [{"er": 1}]}),
        (UNKNOWN_ON_THE_WIRE, UNKNOWN_VALUE),
        (SECRET_ON_THE_WIRE, Secret({"key": "hunter2"})),
        ({SIGNATURE: "5cf8f73096256a8f31e491e813e4eb8e", "urn": "urn:x", "id": "i"}, "urn:x"),
        ({SIGNATURE: "d0e6a833031e9bbcd3f4e8bde6ca49a4", "value": 1}, 1),
        ({SIGNATURE: "d0e6a833031e9bbcd3f4e8bde6ca49a4"}, UNKNOWN_VALUE),
        ({SIGNATURE: "d0e6a833031e9bbcd3f4e8bde6ca49a4", "value": "s", "secret": True}, Secret("s")),
        (
            {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": "asset"},
            {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": "asset"},
        ),
    ],
)
def test_every_form_of_a_value_is_understood(wire: Any, value: Any) -> None:
    assert decoded({"it": wire}) == {"it": value}


def test_a_whole_number_becomes_an_int_because_kubernetes_refuses_8080_0() -> None:
    assert json.dumps(decoded({"port": 8080})) == '{"port": 8080}'


def test_a_tree_survives_the_way_to_the_program_and_back() -> None:
    tree = {"secret": Secret({"a": [1, UNKNOWN_VALUE]}), "plain": [None, True, "x"], "unknown": UNKNOWN_VALUE}
    assert values.decode_struct(values.encode_struct(tree)) == tree


def test_mask_hides_secrets_at_any_depth_and_names_unknowns() -> None:
    tree = {"a": [{"b": Secret({"c": "hunter2"})}], "u": UNKNOWN_VALUE, "n": 1}
    assert values.mask(tree) == {"a": [{"b": SECRET}], "u": UNKNOWN, "n": 1}


def test_a_secret_does_not_show_when_it_is_printed() -> None:
    assert "hunter2" not in repr({"a": Secret("hunter2")})


def test_reveal_gives_the_bare_values() -> None:
    assert values.reveal({"a": Secret({"b": Secret("x")})}) == {"a": {"b": "x"}}


@pytest.mark.parametrize(
    ("inputs", "secret_outputs", "hidden"),
    [
        ({"spec": {"env": [Secret("x")]}}, [], {"spec"}),
        ({"spec": {"env": ["x"]}}, [], set()),
        ({"spec": {}}, ["status"], {"status"}),
    ],
)
def test_an_output_is_secret_when_its_input_holds_a_secret_or_the_program_says_so(
    inputs: dict[str, Any], secret_outputs: list[str], hidden: set[str]
) -> None:
    outputs = {"spec": {"env": ["x"]}, "status": {"phase": "Active"}}
    kept = values.keep_secret(outputs, inputs, secret_outputs)
    assert {key for key, value in kept.items() if isinstance(value, Secret)} == hidden
