"""Asking endpoints: a prediction for a person, and the check that a new deployment answers as it must."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from operations.errors import OperationError
from serving_image.manifest import Manifest

_TIMEOUT_SECONDS = 30
_RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that a person can repeat, and the answer it got."""

    url: str
    request: Mapping[str, Any] | None
    response: str

    @property
    def curl(self) -> str:
        if self.request is None:
            return f"curl {self.url}"
        body = json.dumps(self.request).replace("'", "'\\''")
        return f"curl {self.url} -H 'Content-Type: application/json' -d '{body}'"


def predict(base_url: str, model: str, data: str) -> Mapping[str, Any]:
    """Ask a model; `data` is a JSON array for its one input, or a whole infer request.

    Returns the V2 infer response. Raises OperationError with the server's own words.
    """
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise OperationError(f"data {data!r}: not JSON ({error}); expected an array such as '[[5.1, 3.5, 1.4, 0.2]]'") from None
    if not isinstance(parsed, dict):
        parsed = _request_for(_get(f"{base_url}/v2/models/{model}"), parsed)
    return _post(f"{base_url}/v2/models/{model}/infer", parsed)


def _request_for(metadata: Mapping[str, Any], data: object) -> Mapping[str, Any]:
    inputs = metadata["inputs"]
    if len(inputs) != 1:
        names = ", ".join(tensor["name"] for tensor in inputs)
        raise OperationError(f"model {metadata['name']!r}: has the inputs {names}; give a whole request: '{{\"inputs\": [...]}}'")
    shape, rest = [], data
    while isinstance(rest, list):
        shape.append(len(rest))
        rest = rest[0] if rest else None
    return {"inputs": [{"name": inputs[0]["name"], "datatype": inputs[0]["datatype"], "shape": shape, "data": data}]}


def verify_model(base_url: str, manifest: Manifest, *, timeout_seconds: float = 30) -> Exchange:
    """Send the manifest's sample and compare the answer. Raises OperationError when it differs."""
    url = f"{base_url}/v2/models/{manifest.name}/versions/{manifest.version}/infer"
    answer = _until_routed(lambda: _post(url, manifest.sample.request), timeout_seconds)
    expected = {tensor["name"]: tensor for tensor in manifest.sample.response["outputs"]}
    for tensor in answer["outputs"]:
        wanted = expected.get(tensor["name"])
        if wanted is not None and not _close(wanted["data"], tensor["data"]):
            raise OperationError(
                f"{url}: answers the manifest's sample with {tensor['name']} = {tensor['data']},"
                f" the manifest says {wanted['data']}"
            )
    return Exchange(url=url, request=manifest.sample.request, response=json.dumps(answer))


def verify_health(base_url: str, path: str, *, timeout_seconds: float = 30) -> Exchange:
    """Ask a service's readiness path. Raises OperationError unless it answers 2xx."""
    url = base_url + path
    response = _until_routed(lambda: _send("GET", url), timeout_seconds)
    return Exchange(url=url, request=None, response=response.text.strip())


def _until_routed(send: Any, timeout_seconds: float) -> Any:
    """A ready pod is routed to a moment later: no connection, for that moment, is no failure."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return send()
        except _NoConnection:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _NoConnection(OperationError):
    """Nothing answers at the address."""


def _get(url: str) -> Any:
    return _send("GET", url).json()


def _post(url: str, body: Mapping[str, Any]) -> Any:
    return _send("POST", url, body).json()


def _send(method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
    try:
        # Endpoints of this machine and of a cluster are no business of a proxy in the environment.
        with httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
            response = client.request(method, url, json=body)
    except httpx.TransportError as error:
        raise _NoConnection(f"{url}: {error or type(error).__name__}; is it up? ./maas status") from None
    if response.is_error:
        try:
            message = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            message = response.text.strip()[:500]
        raise OperationError(f"{url}: HTTP {response.status_code}: {message}")
    return response


def _close(expected: Any, found: Any) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(_close, expected, found))
    if isinstance(expected, float) or isinstance(found, float):
        return math.isclose(expected, found, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-8)
    return bool(expected == found)
