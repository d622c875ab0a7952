"""Asking endpoints: a prediction for a person, and the check that a new deployment answers as it must."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from operations.errors import OperationError
from serving_image.manifest import Manifest

_TIMEOUT_SECONDS = 30
_RELATIVE_TOLERANCE = 1e-4
_QUOTED = 500
"""Characters of an unexpected answer that a message repeats."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that a person can repeat, and the answer it got."""

    url: str
    request: Mapping[str, Any] | None
    response: str

    @property
    def curl(self) -> str:
        command = ["curl", self.url]
        if self.request is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(self.request)]
        return shlex.join(command)


def predict(base_url: str, model: str, data: str) -> Mapping[str, Any]:
    """Ask a model; `data` is a JSON array for its one input, or a whole infer request.

    Returns the V2 infer response. Raises OperationError with the server's own words.
    """
    try:
        parsed = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise OperationError(
            f"data {data!r}: not JSON ({error}); expected an array such as '[[5.1, 3.5, 1.4, 0.2]]'"
        ) from None
    url = f"{base_url}/v2/models/{model}"
    if not isinstance(parsed, dict):
        parsed = _request_for(_answer(_send("GET", url), "inputs"), parsed)
    return _answer(_send("POST", f"{url}/infer", parsed), "outputs")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is Python's, not JSON's")


def _request_for(metadata: Mapping[str, Any], data: object) -> Mapping[str, Any]:
    inputs = metadata["inputs"]
    if len(inputs) != 1:
        names = ", ".join(tensor["name"] for tensor in inputs)
        raise OperationError(
            f"model {metadata['name']!r}: has the inputs {names}; give a whole request:"
            " '{\"inputs\": [...]}'"
        )
    shape, rest = [], data
    while isinstance(rest, list):
        shape.append(len(rest))
        rest = rest[0] if rest else None
    return {
        "inputs": [
            {"name": inputs[0]["name"], "datatype": inputs[0]["datatype"], "shape": shape, "data": data}
        ]
    }


def verify_model(base_url: str, manifest: Manifest, *, timeout_seconds: float = 30) -> Exchange:
    """Send the manifest's sample and compare the answer. Raises OperationError when it differs."""
    url = f"{base_url}/v2/models/{manifest.name}/versions/{manifest.version}/infer"
    response = _until_routed(lambda: _send("POST", url, manifest.sample.request), timeout_seconds)
    answer = _answer(response, "outputs")
    found = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    for tensor in manifest.sample.response["outputs"]:
        name, wanted = tensor["name"], tensor["data"]
        if not _close(wanted, found.get(name)):
            raise OperationError(
                f"{url}: answers the manifest's sample with {name} = {found.get(name)},"
                f" the manifest says {wanted}"
            )
    return Exchange(url=url, request=manifest.sample.request, response=json.dumps(answer))


def verify_health(base_url: str, path: str, *, timeout_seconds: float = 30) -> Exchange:
    """Ask a service's readiness path. Raises OperationError unless it answers 2xx."""
    url = base_url + path
    response = _until_routed(lambda: _send("GET", url), timeout_seconds)
    return Exchange(url=url, request=None, response=response.text.strip())


def _until_routed(send: Callable[[], httpx.Response], timeout_seconds: float) -> httpx.Response:
    """A ready pod is routed to a moment later: until then nothing, or the version before it, may answer."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return send()
        except _NotRoutedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _NotRoutedError(OperationError):
    """Nothing answers at the address, or something that does not serve this model (yet)."""


def _answer(response: httpx.Response, key: str) -> dict[str, Any]:
    """A V2 answer, which has this key. Raises OperationError when it is no model server that answers."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or key not in answer:
        raise OperationError(
            f"{response.url}: not a model server's answer: {response.text.strip()[:_QUOTED]!r}"
        )
    return answer


def _send(method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    try:
        # Endpoints of this machine and of a cluster are no business of a proxy in the environment.
        with httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
            response = client.request(method, url, json=body)
    except httpx.TransportError as error:
        raise _NotRoutedError(f"{url}: {error or type(error).__name__}; is it up? ./maas status") from None
    if not response.is_success:
        try:
            message = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            message = response.text.strip()[:_QUOTED]
        not_here = response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
        kind = _NotRoutedError if not_here else OperationError
        raise kind(f"{url}: HTTP {response.status_code}: {message}")
    return response


def _close(expected: Any, found: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_close, expected, found))
    numbers = isinstance(expected, int | float) and isinstance(found, int | float)
    if numbers and float in (type(expected), type(found)):
        return math.isclose(expected, found, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-8)
    return bool(expected == found)
