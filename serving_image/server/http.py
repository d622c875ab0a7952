"""The Open Inference Protocol V2 over HTTP: paths, status codes and limits; every error is {"error": string}.

Knows neither the wire format (`protocol`) nor models (`registry`). The event loop only moves bytes: whatever
depends on the size of a request runs in the prediction threads, so that probes are answered under any load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, cast

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving_image.manifest import Tensor
from serving_image.server import __version__
from serving_image.server.metrics import Metrics
from serving_image.server.model import Model, PredictionError
from serving_image.server.protocol import RequestError
from serving_image.server.registry import NotReadyError, Registry, UnknownModelError
from serving_image.server.settings import Settings

_access_log = logging.getLogger("access")
_log = logging.getLogger(__name__)
_UNLOGGED = ("/v2/health/", "/metrics")
# A client that stops sending must not hold its place, and the memory of what it sent, forever.
_BODY_TIMEOUT_SECONDS = 60
_MODEL = "model-server.model"


def create_app(registry: Registry, settings: Settings, predictions: ThreadPoolExecutor) -> ASGIApp:
    """The server as an ASGI application; it answers from the registry's state at each moment."""
    metrics = Metrics(registry)
    api = _Api(registry=registry, settings=settings, metrics=metrics, predictions=predictions)
    routes = []
    for path, endpoint, method in (
        ("/v2", api.server_metadata, "GET"),
        ("/v2/", api.server_metadata, "GET"),
        ("/v2/health/live", api.live, "GET"),
        ("/v2/health/ready", api.ready, "GET"),
        ("/metrics", api.metrics_page, "GET"),
        ("/v2/models/{model}", api.model_metadata, "GET"),
        ("/v2/models/{model}/versions/{version}", api.model_metadata, "GET"),
        ("/v2/models/{model}/ready", api.model_ready, "GET"),
        ("/v2/models/{model}/versions/{version}/ready", api.model_ready, "GET"),
        ("/v2/models/{model}/infer", api.infer, "POST"),
        ("/v2/models/{model}/versions/{version}/infer", api.infer, "POST"),
    ):
        routes.append(Route(path, endpoint, methods=[method]))
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _http_error,
            ClientDisconnect: _client_gone,
            Exception: _server_error,
        },
    )
    app.router.redirect_slashes = False
    return _Edge(app, registry, metrics)


class _Api:
    def __init__(
        self, *, registry: Registry, settings: Settings, metrics: Metrics, predictions: ThreadPoolExecutor
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._predictions = predictions
        self._pending = 0

    async def server_metadata(self, _request: Request) -> Response:
        return _json({"name": "model-server", "version": __version__, "extensions": []})

    async def live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        if problem := self._registry.not_ready:
            return _json({"live": True, "ready": False, "error": problem}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"live": True, "ready": True})

    async def metrics_page(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def model_metadata(self, request: Request) -> Response:
        model = self._find(request)
        manifest = model.manifest
        return _json(
            {
                "name": manifest.name,
                "versions": self._registry.versions(manifest.name),
                "platform": _platform(manifest.format.value),
                "inputs": [_tensor(tensor) for tensor in manifest.inputs],
                "outputs": [_tensor(tensor) for tensor in manifest.outputs],
                "properties": {
                    "sha256": model.sha256,
                    "version": manifest.version,
                    "created": manifest.created,
                },
            }
        )

    async def model_ready(self, request: Request) -> Response:
        model = self._find(request)
        return _json({"name": model.manifest.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        request.scope[_MODEL] = None
        model = request.scope[_MODEL] = self._find(request)
        if self._pending >= self._settings.max_pending_requests:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the server is busy: {self._pending} inference requests are waiting; try again",
                headers={"Retry-After": "1"},
            )
        self._pending += 1
        self._metrics.in_flight.inc()
        try:
            body = await _read_body(request, self._settings.max_request_bytes)
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(self._predictions, model.infer, body)
        except RequestError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        except PredictionError as error:
            _log.exception(str(error))
            raise HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from error
        finally:
            self._pending -= 1
            self._metrics.in_flight.dec()
        return Response(content, media_type="application/json")

    def _find(self, request: Request) -> Model:
        try:
            return self._registry.find(request.path_params["model"], request.path_params.get("version"))
        except UnknownModelError as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from error
        except NotReadyError as error:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


class _Edge:
    """What all responses have in common: access log, metrics, and the end of connections while draining."""

    def __init__(self, app: ASGIApp, registry: Registry, metrics: Metrics) -> None:
        self._app = app
        self._registry = registry
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._registry.draining:
                    # Clients open their next connection elsewhere, instead of losing this one mid-request.
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            self._observe(scope, status, time.perf_counter() - started)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
        }
        if _MODEL in scope:
            model: Model | None = scope[_MODEL]
            name, version = (model.manifest.name, model.manifest.version) if model else ("", "")
            self._metrics.requests.labels(name, version, str(status)).inc()
            self._metrics.duration.labels(name, version).observe(seconds)
            fields |= {"model": name, "version": version}
        if not scope["path"].startswith(_UNLOGGED):
            _access_log.info("request", extra={"fields": fields})


async def _read_body(request: Request, max_bytes: int) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding {encoding!r} is not supported; send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )
    if "inference-header-content-length" in request.headers:
        raise HTTPException(
            HTTPStatus.BAD_REQUEST, "binary tensor data is not supported; send 'data' as JSON"
        )
    too_large = HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than the {max_bytes} bytes allowed",
        # What is still on its way is not worth reading.
        headers={"Connection": "close"},
    )
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise HTTPException(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive within {_BODY_TIMEOUT_SECONDS} s",
            headers={"Connection": "close"},
        ) from None
    return b"".join(chunks)


def _platform(model_format: str) -> str:
    """The protocol's `<project>_<format>`; it lists a name for ONNX only."""
    return "onnx_onnxv1" if model_format == "onnx" else model_format.replace("-", "_")


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype.value, "shape": tensor.shape}


def _json(content: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def error_body(message: str) -> bytes:
    return msgspec.json.encode({"error": message})


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND and message == HTTPStatus.NOT_FOUND.phrase:
        message = f"no such path: {request.url.path}"
    return Response(error_body(message), error.status_code, error.headers, "application/json")


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(error_body("the client closed the connection"), HTTPStatus.BAD_REQUEST)


async def _server_error(_request: Request, _error: Exception) -> Response:
    return _json({"error": "internal server error; the log has the reason"}, HTTPStatus.INTERNAL_SERVER_ERROR)
