"""Property values as they travel between a Pulumi program and its engine.

A decoded tree is JSON data, but for `Secret` around what the program marked secret, and UNKNOWN_VALUE for
what is not known yet. Only `mask` leads from a tree to what is shown, only `reveal` to a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.plan import SECRET, UNKNOWN

if TYPE_CHECKING:
    from google.protobuf import struct_pb2

# The wire protocol's own constants (pulumi: sdk/go/common/resource/sig, sdk/python runtime/rpc.py).
SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105
_RESOURCE = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN_ON_THE_WIRE = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
UNKNOWN_VALUE = object()


@dataclass(frozen=True)
class Secret:
    value: Any

    def __repr__(self) -> str:
        return SECRET


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
    signature = fields.get(SIGNATURE)
    if signature == _SECRET:
        return Secret(fields.get("value"))
    if signature == _RESOURCE:
        return fields.get("urn")
    if signature == _OUTPUT:
        known = fields.get("value", UNKNOWN_VALUE)
        return Secret(known) if fields.get("secret") else known
    return fields  # assets and archives stay as they are


def encode_struct(tree: dict[str, Any]) -> struct_pb2.Struct:
    from google.protobuf import struct_pb2  # late: the child that runs the program is started first

    def secret(value: Any) -> Any:
        return {SIGNATURE: _SECRET, "value": value}

    struct = struct_pb2.Struct()
    struct.update(_convert(tree, secret, UNKNOWN_ON_THE_WIRE))
    return struct


def mask(tree: Any) -> Any:
    """JSON data that is safe to show."""
    return _convert(tree, lambda _: SECRET, UNKNOWN)


def reveal(tree: Any) -> Any:
    """The bare values, secrets included; UNKNOWN_VALUE stays."""
    return _convert(tree, lambda value: value, UNKNOWN_VALUE)


def _convert(tree: Any, secret: Callable[[Any], Any], unknown: object) -> Any:
    if isinstance(tree, Secret):
        return secret(_convert(tree.value, secret, unknown))
    if isinstance(tree, dict):
        return {key: _convert(value, secret, unknown) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_convert(value, secret, unknown) for value in tree]
    return unknown if tree is UNKNOWN_VALUE else tree


def leaves(tree: Any, secret: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every scalar of a tree and whether it is secret."""
    if isinstance(tree, Secret):
        yield from leaves(tree.value, True)
    elif isinstance(tree, (dict, list)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(value, secret)
    else:
        yield tree, secret


def has_unknown(tree: Any) -> bool:
    return any(leaf is UNKNOWN_VALUE for leaf, _ in leaves(tree))


def keep_secret(
    outputs: dict[str, Any], inputs: dict[str, Any], secret_outputs: Iterable[str]
) -> dict[str, Any]:
    """`outputs`, each property secret whose input holds a secret or that the program wants secret."""
    hidden = {key for key, value in inputs.items() if any(secret for _, secret in leaves(value))}
    hidden.update(secret_outputs)
    return {key: Secret(value) if key in hidden else value for key, value in outputs.items()}
