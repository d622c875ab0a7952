"""Property values as they travel between a Pulumi program and its engine.

A decoded tree is JSON data, but for `Secret` around what the program marked secret and `UNKNOWN_VALUE` for what is
not known yet. `mask` is the only way from a tree into what is shown, `reveal` the only way to a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import struct_pb2

from engine.plan import SECRET, UNKNOWN

# The wire protocol's own constants (pulumi: sdk/go/common/resource/sig, sdk/python runtime/rpc.py).
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"
_RESOURCE_SIGNATURE = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT_SIGNATURE = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN_ON_THE_WIRE = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


@dataclass(frozen=True)
class Secret:
    value: Any

    def __repr__(self) -> str:
        return SECRET


class _Unknown:
    def __repr__(self) -> str:
        return UNKNOWN


UNKNOWN_VALUE = _Unknown()


def decode(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return decode_struct(value.struct_value)
        case "list_value":
            return [decode(item) for item in value.list_value.values]
        case "string_value":
            return UNKNOWN_VALUE if value.string_value == UNKNOWN_ON_THE_WIRE else value.string_value
        case "number_value":
            # A protobuf Struct knows only floats; Kubernetes refuses 8080.0 where it wants 8080.
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "bool_value":
            return value.bool_value
    return None


def decode_struct(struct: struct_pb2.Struct) -> Any:
    fields = {key: decode(value) for key, value in struct.fields.items()}
    match fields.get(_SIGNATURE):
        case None:
            return fields
        case signature if signature == _SECRET_SIGNATURE:
            return Secret(fields.get("value"))
        case signature if signature == _RESOURCE_SIGNATURE:
            return fields.get("urn")
        case signature if signature == _OUTPUT_SIGNATURE:
            known = fields.get("value", UNKNOWN_VALUE)
            return Secret(known) if fields.get("secret") else known
    return fields  # assets and archives stay as they are


def encode_struct(tree: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update({key: _wire(value) for key, value in tree.items()})
    return struct


def _wire(tree: Any) -> Any:
    if isinstance(tree, Secret):
        return {_SIGNATURE: _SECRET_SIGNATURE, "value": _wire(tree.value)}
    if tree is UNKNOWN_VALUE:
        return UNKNOWN_ON_THE_WIRE
    if isinstance(tree, dict):
        return {key: _wire(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_wire(value) for value in tree]
    return tree


def mask(tree: Any) -> Any:
    """JSON data that is safe to show."""
    if isinstance(tree, Secret):
        return SECRET
    if tree is UNKNOWN_VALUE:
        return UNKNOWN
    if isinstance(tree, dict):
        return {key: mask(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [mask(value) for value in tree]
    return tree


def reveal(tree: Any) -> Any:
    """The bare values, secrets included; UNKNOWN_VALUE stays."""
    if isinstance(tree, Secret):
        return reveal(tree.value)
    if isinstance(tree, dict):
        return {key: reveal(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [reveal(value) for value in tree]
    return tree


def leaves(tree: Any, secret: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every scalar of a tree and whether it is secret."""
    if isinstance(tree, Secret):
        yield from leaves(tree.value, True)
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value, secret)
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value, secret)
    else:
        yield tree, secret


def has_secret(tree: Any) -> bool:
    return any(secret for _, secret in leaves(tree))


def has_unknown(tree: Any) -> bool:
    return any(leaf is UNKNOWN_VALUE for leaf, _ in leaves(tree))


def keep_secret(
    outputs: dict[str, Any], inputs: dict[str, Any], secret_outputs: Iterable[str]
) -> dict[str, Any]:
    """`outputs`, each property secret whose input holds a secret or that the program wants secret."""
    hidden = {*secret_outputs, *(key for key, value in inputs.items() if has_secret(value))}
    return {key: Secret(value) if key in hidden else value for key, value in outputs.items()}
