"""Open Inference Protocol V2 over JSON: request bytes to tensors, tensors to response bytes.

Owns the wire format, and knows neither HTTP nor any model. Spec: kserve/open-inference-protocol,
specification/protocol/inference_rest.md; where it is silent, the choice and its reason are stated here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import numpy.typing as npt

from serving_image.manifest import Datatype, Tensor

Array = npt.NDArray[Any]

DTYPES: Mapping[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
    Datatype.BYTES: np.dtype(np.object_),
}
_DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()}
_MAX_RANK = 32  # numpy's own limit was 32 for decades, and no model comes near it
_NESTED = re.compile(rb"\[\s*\[")
_FP16 = "FP16 data via JSON is not supported; use FP32"


class RequestError(ValueError):
    """The client asked for something that cannot be answered; the message says what and how to fix it."""


class ResponseError(RuntimeError):
    """The model answered with something that JSON cannot carry."""


@dataclass(frozen=True, kw_only=True)
class NamedTensor:
    """A tensor on the wire. BYTES elements are `str` in an object array."""

    name: str
    datatype: Datatype
    array: Array


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request whose tensors are well-formed; whether they fit the model is not known yet."""

    id: str
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[str, ...]  # empty: all of them


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    """Clients send unknown keys (`model_name`) and null for what is absent (both KServe), so both pass."""

    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_decode_request = msgspec.json.Decoder(_Request).decode


def decode_request(body: bytes) -> InferRequest:
    """Parse an infer request. Without an id it is given one: some clients require one back (kserve#3094).

    Raises RequestError.
    """
    try:
        request = _decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not a V2 inference request: {error}") from None
    except RecursionError:
        raise RequestError("the body is not a V2 inference request: it is nested too deeply") from None
    if not request.inputs:
        raise RequestError("'inputs' is empty: at least one tensor is needed")
    outputs = tuple(output.name for output in request.outputs or ())
    _refuse_duplicates("inputs", [tensor.name for tensor in request.inputs])
    _refuse_duplicates("outputs", outputs)
    return InferRequest(
        id=str(uuid4()) if request.id is None else request.id,
        inputs=tuple(_decode_input(tensor) for tensor in request.inputs),
        outputs=outputs,
    )


def encode_response(
    *, model_name: str, model_version: str, request_id: str, outputs: Sequence[NamedTensor]
) -> bytes:
    """Render an infer response; `data` is flat, in row-major order. Raises RequestError and ResponseError."""
    return msgspec.json.encode(
        {
            "model_name": model_name,
            "model_version": model_version,
            "id": request_id,
            "outputs": [encode_tensor(tensor) for tensor in outputs],
        }
    )


def encode_tensor(tensor: NamedTensor) -> dict[str, Any]:
    """A tensor as its JSON object. Raises RequestError and ResponseError."""
    return {
        "name": tensor.name,
        "datatype": tensor.datatype.value,
        "shape": list(tensor.array.shape),
        "data": _encode_data(tensor),
    }


def bind_inputs(tensors: Sequence[NamedTensor], expected: Sequence[Tensor]) -> dict[str, Array]:
    """Match a request's tensors with the inputs of a model, by name. Raises RequestError.

    A datatype that converts without loss is accepted (FP32 or INT32 for FP64): the spec lets a server coerce,
    and clients' examples rely on it.
    """
    given = {tensor.name: tensor for tensor in tensors}
    names = [spec.name for spec in expected]
    if sorted(given) != sorted(names):
        raise RequestError(f"inputs {sorted(given)}: the model takes {names}")
    return {spec.name: _bind(given[spec.name], spec) for spec in expected}


def named_tensor(spec: Tensor, array: Array) -> NamedTensor:
    """A model's output as its metadata declares it. Raises ResponseError."""
    dtype = DTYPES[spec.datatype]
    try:
        array = np.asarray(array).astype(dtype, casting="same_kind", copy=False)
    except TypeError:
        raise ResponseError(f"output {spec.name!r} is {array.dtype}, declared as {spec.datatype}") from None
    return NamedTensor(name=spec.name, datatype=spec.datatype, array=array)


def datatype_of(dtype: np.dtype[Any]) -> Datatype | None:
    """The protocol's name of a numpy dtype, or None where it has none."""
    return Datatype.BYTES if dtype.kind in "USO" else _DATATYPES.get(dtype.newbyteorder("="))


def _refuse_duplicates(where: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise RequestError(f"{where!r} names a tensor twice: {list(names)}")


def _decode_input(tensor: _Input) -> NamedTensor:
    where = f"input {tensor.name!r}"
    try:
        datatype = Datatype(tensor.datatype)
    except ValueError:
        allowed = ", ".join(Datatype)
        raise RequestError(f"{where}: datatype {tensor.datatype!r} is not one of {allowed}") from None
    if datatype is Datatype.FP16:
        raise RequestError(f"{where}: {_FP16}")
    if len(tensor.shape) > _MAX_RANK or any(not 0 <= size < 2**63 for size in tensor.shape):
        raise RequestError(
            f"{where}: shape {tensor.shape} must be at most {_MAX_RANK} sizes from 0 to 2^63-1"
        )
    raw = bytes(tensor.data)
    if raw == b"null":
        raise RequestError(f"{where}: 'data' is missing; binary tensor data is not supported")
    return NamedTensor(
        name=tensor.name, datatype=datatype, array=_decode_data(raw, datatype, tensor.shape, where)
    )


def _decode_data(raw: bytes, datatype: Datatype, shape: Sequence[int], where: str) -> Array:
    nested = _NESTED.match(raw) is not None
    try:
        elements = _data_decoder(datatype, max(1, len(shape)) if nested else 1)(raw)
        with np.errstate(over="ignore"):
            array: Array = np.array(elements, dtype=DTYPES[datatype])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{where}: 'data' does not hold {datatype} of shape {list(shape)}: {error}"
        ) from None
    except OverflowError as error:
        raise RequestError(f"{where}: a value does not fit {datatype}: {error}") from None
    except ValueError:  # numpy's word for rows of different length
        raise RequestError(f"{where}: 'data' is ragged; it must be flat or nested as {list(shape)}") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(f"{where}: a value is too large for {datatype}")
    if nested and array.shape != tuple(shape):
        raise RequestError(f"{where}: 'data' is nested as {list(array.shape)}, its shape says {list(shape)}")
    if array.size != prod(shape):
        raise RequestError(
            f"{where}: 'data' has {array.size} elements, shape {list(shape)} has {prod(shape)}"
        )
    return array.reshape(tuple(shape))


@cache
def _data_decoder(datatype: Datatype, depth: int) -> Any:
    """Strict: a boolean is no number and 1.0 is no integer."""
    element: Any = {"b": bool, "u": int, "i": int, "f": float, "O": str}[DTYPES[datatype].kind]
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element).decode


def _bind(tensor: NamedTensor, spec: Tensor) -> Array:
    dtype = DTYPES[spec.datatype]
    if (tensor.datatype is Datatype.BYTES) != (spec.datatype is Datatype.BYTES) or not np.can_cast(
        tensor.array.dtype, dtype, casting="safe"
    ):
        raise RequestError(
            f"input {spec.name!r}: datatype {tensor.datatype}, the model takes {spec.datatype}"
        )
    sizes = tensor.array.shape
    if len(sizes) != len(spec.shape) or any(
        declared not in (-1, size) for size, declared in zip(sizes, spec.shape, strict=True)
    ):
        raise RequestError(f"input {spec.name!r}: shape {list(sizes)}, the model takes {list(spec.shape)}")
    return tensor.array.astype(dtype, copy=False)


def _encode_data(tensor: NamedTensor) -> list[Any]:
    if tensor.datatype is Datatype.FP16:
        raise RequestError(f"output {tensor.name!r}: {_FP16}")
    if tensor.array.dtype.kind == "f" and not np.isfinite(tensor.array).all():
        # null, which encoders write instead, is not a number to any client.
        raise ResponseError(f"output {tensor.name!r} holds NaN or infinity, which JSON cannot carry")
    elements: list[Any] = tensor.array.ravel().tolist()
    if tensor.datatype is Datatype.BYTES:
        return [_text(tensor.name, element) for element in elements]
    return elements


def _text(name: str, element: object) -> str:
    try:
        return element.decode() if isinstance(element, bytes) else str(element)
    except UnicodeDecodeError:
        raise ResponseError(f"output {name!r} is not UTF-8 text, which JSON cannot carry") from None
