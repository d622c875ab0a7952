from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serving_image.manifest import Datatype, Tensor
from serving_image.server import protocol
from serving_image.server.protocol import NamedTensor, RequestError, ResponseError


def request(datatype: str, shape: list[int], data: str) -> bytes:
    """`data` is JSON text, since some of what clients send has no Python form."""
    head = json.dumps({"name": "x", "datatype": datatype, "shape": shape})[:-1]
    return f'{{"inputs": [{head}, "data": {data}}}]}}'.encode()


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "expected"),
    [
        ("FP64", [2, 2], "[[1, 2.5], [3, 4]]", [[1.0, 2.5], [3.0, 4.0]]),
        ("FP64", [2, 2], "[1, 2.5, 3, 4]", [[1.0, 2.5], [3.0, 4.0]]),
        ("FP32", [2], "[1e-3, -0]", [0.001, 0.0]),
        ("INT8", [2], "[-128, 127]", [-128, 127]),
        ("UINT8", [2], "[0, 255]", [0, 255]),
        ("INT64", [2], "[-9223372036854775808, 9223372036854775807]", [-(2**63), 2**63 - 1]),
        ("UINT64", [2, 1], "[[0], [18446744073709551615]]", [[0], [2**64 - 1]]),
        ("BOOL", [3], "[true, false, true]", [True, False, True]),
        ("BYTES", [2], '["a", "\\u00e9\\u0000"]', ["a", "\u00e9\x00"]),
        ("BYTES", [1, 2], '[["a", "b"]]', [["a", "b"]]),
        ("FP64", [], "[5]", 5.0),
        ("FP64", [0, 4], "[]", []),
        ("FP64", [2, 0], "[[], []]", [[], []]),
        ("FP64", [1, 1], " [ [ 5 ] ] ", [[5.0]]),
    ],
)
def test_nested_and_flat_data_become_the_tensor(
    datatype: str, shape: list[int], data: str, expected: object
) -> None:
    (tensor,) = protocol.decode_request(request(datatype, shape, data)).inputs
    assert tensor.array.dtype == protocol.DTYPES[Datatype(datatype)]
    assert tensor.array.shape == tuple(shape)
    assert tensor.array.tolist() == np.array(expected, tensor.array.dtype).tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP64", [2, 2], "[1, 2, 3]", "'data' has 3 elements, shape [2, 2] has 4"),
        ("FP64", [2, 2], "[[1, 2, 3, 4]]", "nested as [1, 4], its shape says [2, 2]"),
        ("FP64", [2, 2], "[[1, 2], [3]]", "ragged"),
        ("FP64", [2, 2], "[[1, 2], 3, 4]", "$[1]"),
        ("FP64", [2], "[[1, 2]]", "$[0]"),
        ("BYTES", [2, 2], '[["a", "b"], ["c"]]', "nested as [2], its shape says"),
        ("FP64", [-1, 4], "[1, 2, 3, 4]", "sizes from 0 to 2^63-1"),
        ("FP64", [2**63, 2], "[1]", "sizes from 0 to 2^63-1"),
        ("FP64", [2**62, 4], "[1]", f"has {2**64}"),
        ("FP64", [1] * 33, "[1]", "at most 32 sizes"),
        ("UINT8", [1], "[256]", "does not fit UINT8"),
        ("UINT8", [1], "[-1]", "does not fit UINT8"),
        ("INT64", [1], "[9223372036854775808]", "does not fit INT64"),
        ("UINT64", [1], "[18446744073709551616]", "does not fit UINT64"),
        ("INT32", [1], "[1.0]", "Expected `int`, got `float`"),
        ("INT32", [1], "[true]", "Expected `int`, got `bool`"),
        ("FP64", [1], "[false]", "Expected `float`, got `bool`"),
        ("FP64", [1], '["1"]', "Expected `float`, got `str`"),
        ("FP64", [1], "[null]", "got `null`"),
        ("FP64", [1], "[1e999]", "out of range"),
        ("FP32", [1], "[1e39]", "too large for FP32"),
        ("FP64", [1], "[NaN]", "malformed"),
        ("FP64", [1], "[Infinity]", "malformed"),
        ("BOOL", [1], "[1]", "Expected `bool`, got `int`"),
        ("BYTES", [1], "[1]", "Expected `str`, got `int`"),
        ("FP64", [1], "5", "Expected `array`"),
        ("FP64", [1], "null", "'data' is missing"),
        ("FP64", [1], "[" * 100_000, "malformed|truncated|deeply"),
        ("FP16", [1], "[1]", "FP16 data via JSON is not supported"),
        ("BF16", [1], "[1]", "is not one of BOOL"),
        ("fp64", [1], "[1]", "is not one of BOOL"),
    ],
)
def test_data_that_is_not_the_tensor_is_refused(
    datatype: str, shape: list[int], data: str, message: str
) -> None:
    with pytest.raises(RequestError) as error:
        protocol.decode_request(request(datatype, shape, data))
    assert any(part in str(error.value) for part in message.split("|"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": []}', "'inputs' is empty"),
        (b'{"inputs": [{}]}', "missing required field `name`"),
        (b'{"inputs": {}}', "$.inputs"),
        (b'{"id": 5, "inputs": []}', "$.id"),
        (b'{"parameters": [], "inputs": []}', "$.parameters"),
        (b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1]}]}', "'data' is missing"),
        (b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": ["1"], "data": [1]}]}', "shape[0]"),
        (b'{"inputs": [], "outputs": [{}]}', "$.outputs[0]"),
        (b'{"id": "\xff", "inputs": []}', "utf-8"),
        (b'{"inputs": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (request("FP64", [1], "[1]") + b"{}", "trailing"),
        (
            b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1]}],'
            b' "outputs": [{"name": "y"}, {"name": "y"}]}',
            "names a tensor twice",
        ),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as error:
        protocol.decode_request(body)
    assert message in str(error.value)


def test_unknown_keys_and_nulls_are_tolerated() -> None:
    body: dict[str, object] = {
        "model_name": "iris",
        "id": None,
        "parameters": {"content_type": "np", "headers": {"a": "b"}},
        "outputs": None,
        "inputs": [
            {"name": "x", "datatype": "FP64", "shape": [1], "data": [1], "parameters": None, "extra": [{}]}
        ],
    }
    decoded = protocol.decode_request(json.dumps(body).encode())
    assert decoded.id
    assert decoded.outputs == ()


@pytest.mark.parametrize("datatype", [datatype for datatype in Datatype if datatype is not Datatype.FP16])
def test_every_datatype_survives_the_wire(datatype: Datatype) -> None:
    values: list[Any] = ["a", ""] if datatype is Datatype.BYTES else [1, 0]
    tensor = NamedTensor(name="x", datatype=datatype, array=np.array([values], protocol.DTYPES[datatype]))
    body = json.dumps({"inputs": [protocol.encode_tensor(tensor)]}).encode()
    (decoded,) = protocol.decode_request(body).inputs
    assert np.array_equal(decoded.array, tensor.array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_json_cannot_carry_is_an_error_and_never_null(value: float) -> None:
    tensor = NamedTensor(name="y", datatype=Datatype.FP64, array=np.array([value]))
    with pytest.raises(ResponseError, match="NaN or infinity"):
        protocol.encode_tensor(tensor)


def test_an_fp16_output_is_refused_over_json() -> None:
    tensor = NamedTensor(name="y", datatype=Datatype.FP16, array=np.zeros(1, np.float16))
    with pytest.raises(RequestError, match="FP16 data via JSON"):
        protocol.encode_tensor(tensor)


def test_output_text_that_is_not_utf8_is_an_error() -> None:
    tensor = NamedTensor(name="y", datatype=Datatype.BYTES, array=np.array([b"\xff"], object))
    with pytest.raises(ResponseError, match="UTF-8"):
        protocol.encode_tensor(tensor)


SPEC = Tensor(name="x", datatype=Datatype.FP64, shape=(-1, 4))


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT32", "UINT8"])
def test_a_datatype_that_converts_without_loss_is_accepted(datatype: str) -> None:
    (tensor,) = protocol.decode_request(request(datatype, [1, 4], "[1, 2, 3, 4]")).inputs
    bound = protocol.bind_inputs([tensor], [SPEC])
    assert bound["x"].dtype == np.float64


@pytest.mark.parametrize(
    ("spec", "datatype", "shape", "data", "message"),
    [
        (SPEC, "BYTES", [1, 4], '["1", "2", "3", "4"]', "datatype BYTES, the model takes FP64"),
        (Tensor(name="x", datatype=Datatype.FP32, shape=(1,)), "FP64", [1], "[1]", "the model takes FP32"),
        (Tensor(name="x", datatype=Datatype.BYTES, shape=(1,)), "FP64", [1], "[1]", "the model takes BYTES"),
        (SPEC, "FP64", [1, 3], "[1, 2, 3]", "shape [1, 3], the model takes [-1, 4]"),
        (SPEC, "FP64", [4], "[1, 2, 3, 4]", "shape [4], the model takes [-1, 4]"),
        (Tensor(name="z", datatype=Datatype.FP64, shape=(1,)), "FP64", [1], "[1]", "the model takes ['z']"),
    ],
)
def test_a_tensor_that_does_not_fit_the_model_is_refused(
    spec: Tensor, datatype: str, shape: list[int], data: str, message: str
) -> None:
    decoded = protocol.decode_request(request(datatype, shape, data))
    with pytest.raises(RequestError) as error:
        protocol.bind_inputs(decoded.inputs, [spec])
    assert message in str(error.value)
