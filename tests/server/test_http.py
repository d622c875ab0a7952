from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp

from serving_image.manifest import Tensor
from serving_image.server import http
from serving_image.server.http import create_app
from serving_image.server.model import Model, load_model
from serving_image.server.protocol import Array
from serving_image.server.registry import Registry
from serving_image.server.settings import Settings

if TYPE_CHECKING:
    from tests.server.conftest import Ask

SETTINGS = Settings(max_request_bytes=10_000, max_pending_requests=2, prediction_threads=2)
ROW = {"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
PATHS = [
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/iris",
    "/v2/models/iris/versions/1",
    "/v2/models/iris/ready",
    "/v2/models/iris/versions/1/ready",
    "/metrics",
]


@pytest.fixture(scope="module")
def model(iris: Path) -> Model:
    return load_model(iris, Settings(model_uri=str(iris)))


@pytest.fixture
def registry(model: Model) -> Registry:
    result = Registry()
    result.serve([model], problem=None)
    return result


@pytest.fixture
def app(registry: Registry, predictions: ThreadPoolExecutor) -> ASGIApp:
    return create_app(registry, SETTINGS, predictions)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_protocol_answers(ask: Ask, app: ASGIApp, path: str) -> None:
    assert ask(app, "GET", path).status_code == 200
    assert ask(app, "HEAD", path).status_code == 200


def test_the_server_describes_itself_and_claims_no_extension(ask: Ask, app: ASGIApp) -> None:
    answer = ask(app, "GET", "/v2")
    assert set(answer.json()) == {"name", "version", "extensions"}
    assert answer.json()["extensions"] == []
    assert answer.headers["content-type"] == "application/json"


def test_health_has_the_bodies_that_clients_read(ask: Ask, app: ASGIApp) -> None:
    assert ask(app, "GET", "/v2/health/live").json() == {"live": True}
    assert ask(app, "GET", "/v2/health/ready").json() == {"live": True, "ready": True}
    assert ask(app, "GET", "/v2/models/iris/ready").json() == {"name": "iris", "ready": True}


def test_model_metadata_is_what_was_published(ask: Ask, app: ASGIApp, model: Model) -> None:
    assert ask(app, "GET", "/v2/models/iris").json() == {
        "name": "iris",
        "versions": ["1"],
        "platform": "sklearn_skops",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [
            {"name": "predict", "datatype": "INT64", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 3]},
        ],
        "properties": {"sha256": model.sha256, "version": "1", "created": model.manifest.created},
    }


@pytest.mark.parametrize("path", ["/v2/models/iris/infer", "/v2/models/iris/versions/1/infer"])
def test_an_inference_answers_like_the_model_in_process(ask: Ask, app: ASGIApp, path: str) -> None:
    from sklearn.datasets import load_iris

    from examples.iris.train import train

    rows, _ = load_iris(return_X_y=True)
    tensor = {"name": "input", "datatype": "FP64", "shape": list(rows.shape), "data": rows.tolist()}
    answer = ask(app, "POST", path, json={"id": "a", "inputs": [tensor]})
    assert answer.status_code == 200
    body = answer.json()
    assert {key: body[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "iris",
        "model_version": "1",
        "id": "a",
    }
    labels, probabilities = body["outputs"]
    estimator = train("1")
    assert labels == {
        "name": "predict",
        "datatype": "INT64",
        "shape": [150],
        "data": estimator.predict(rows).tolist(),
    }
    assert probabilities["shape"] == [150, 3]
    expected = estimator.predict_proba(rows).ravel()
    assert np.allclose(probabilities["data"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (None, ["predict", "predict_proba"]),
        ([], ["predict", "predict_proba"]),
        ([{"name": "predict"}], ["predict"]),
        ([{"name": "predict_proba", "parameters": {"binary_data": True}}], ["predict_proba"]),
        ([{"name": "predict_proba"}, {"name": "predict"}], ["predict_proba", "predict"]),
    ],
)
def test_requested_outputs_come_back_in_the_order_asked(
    ask: Ask, app: ASGIApp, outputs: object, expected: list[str]
) -> None:
    answer = ask(app, "POST", "/v2/models/iris/infer", json={"inputs": [ROW], "outputs": outputs})
    assert [output["name"] for output in answer.json()["outputs"]] == expected


def test_a_request_without_id_is_given_one(ask: Ask, app: ASGIApp) -> None:
    ids = {ask(app, "POST", "/v2/models/iris/infer", json={"inputs": [ROW]}).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(isinstance(value, str) and value for value in ids)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream"])
def test_a_content_type_is_never_required(ask: Ask, app: ASGIApp, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps({"inputs": [ROW]}).encode()
    assert ask(app, "POST", "/v2/models/iris/infer", content=body, headers=headers).status_code == 200


def inference(**changes: Any) -> dict[str, Any]:
    return {"json": {"inputs": [{**ROW, **changes}]}}


INFER = "/v2/models/iris/infer"
ERRORS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/", {}, 404, "no such path: /"),
    ("GET", "/v2/x", {}, 404, "no such path: /v2/x"),
    ("GET", "/v2/models", {}, 404, "no such path"),
    ("GET", "/v2/health/live/", {}, 404, "no such path"),
    ("GET", "/v2/models/iris/versions/1/x", {}, 404, "no such path"),
    ("POST", "/v2", {}, 405, "Method Not Allowed"),
    ("DELETE", "/v2/models/iris", {}, 405, "Method Not Allowed"),
    ("GET", INFER, {}, 405, "Method Not Allowed"),
    ("GET", "/v2/models/Iris", {}, 404, "model 'Iris' is not served here; served: iris/1"),
    ("GET", "/v2/models/iris/versions/2", {}, 404, "version '2' is not served"),
    ("GET", "/v2/models/iris/versions/01/ready", {}, 404, "version '01' is not served"),
    ("POST", "/v2/models/x/infer", inference(), 404, "model 'x' is not served"),
    ("POST", INFER, {}, 400, "not a V2 inference request"),
    ("POST", INFER, {"content": b"{"}, 400, "not a V2 inference request"),
    ("POST", INFER, {"content": b"\xff\xfe"}, 400, "not a V2 inference request"),
    ("POST", INFER, {"json": {"instances": [[1, 2, 3, 4]]}}, 400, "missing required field `inputs`"),
    ("POST", INFER, inference(name="x"), 400, "the model takes ['input']"),
    ("POST", INFER, inference(shape=[1, 3], data=[1, 2, 3]), 400, "the model takes [-1, 4]"),
    ("POST", INFER, inference(shape=[0, 4], data=[]), 400, "at least one row"),
    ("POST", INFER, inference(datatype="BYTES", data=["a"] * 4), 400, "the model takes FP64"),
    ("POST", INFER, {"json": {"inputs": [ROW], "outputs": [{"name": "y"}]}}, 400, "outputs ['y']"),
    ("POST", INFER, {"json": {"inputs": [ROW, ROW]}}, 400, "names a tensor twice"),
    ("POST", INFER, {"content": b" " * 10_001}, 413, "larger than the 10000 bytes"),
    (
        "POST",
        INFER,
        {"content": b"x", "headers": {"Content-Encoding": "gzip"}},
        415,
        "Content-Encoding 'gzip'",
    ),
    (
        "POST",
        INFER,
        {"content": b"x", "headers": {"Inference-Header-Content-Length": "1"}},
        400,
        "binary tensor data is not supported",
    ),
]


@pytest.mark.parametrize(("method", "path", "arguments", "status", "message"), ERRORS)
def test_every_error_is_a_status_and_an_error_string(
    ask: Ask, app: ASGIApp, method: str, path: str, arguments: dict[str, Any], status: int, message: str
) -> None:
    answer = ask(app, method, path, **arguments)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"


def test_a_wrong_method_is_told_the_right_ones(ask: Ask, app: ASGIApp) -> None:
    assert ask(app, "GET", INFER).headers["allow"] == "POST"
    assert "GET" in ask(app, "POST", "/v2").headers["allow"]


def test_a_compressed_body_is_told_what_is_accepted(ask: Ask, app: ASGIApp) -> None:
    answer = ask(app, "POST", INFER, content=b"x", headers={"Content-Encoding": "br"})
    assert answer.headers["accept-encoding"] == "identity"


def test_a_body_of_unknown_length_is_limited_too(ask: Ask, app: ASGIApp) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 100

    answer = ask(app, "POST", INFER, content=endless())
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"


def test_a_body_that_stops_arriving_is_given_up(
    ask: Ask, app: ASGIApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(http, "_BODY_TIMEOUT_SECONDS", 0.01)
    answer = ask(app, "POST", INFER, content=stalled())
    assert (answer.status_code, answer.headers["connection"]) == (408, "close")
    assert "did not arrive" in answer.json()["error"]
    assert "model_server_requests_in_flight 0.0" in ask(app, "GET", "/metrics").text


class Broken:
    """A runtime that fails, or answers what cannot be sent."""

    outputs = ("predict", "predict_proba")

    def __init__(self, result: Array | Exception) -> None:
        self.result = result

    def predict(self, _inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        if isinstance(self.result, Exception):
            raise self.result
        return dict.fromkeys(outputs, self.result)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ZeroDivisionError("oh no"), "model iris version 1 failed: ZeroDivisionError: oh no"),
        (np.array([np.nan]), "declared as INT64"),
        (np.array(["a"]), "declared as INT64"),
    ],
)
def test_a_failing_model_is_a_500_without_a_stack(
    ask: Ask, app: ASGIApp, registry: Registry, model: Model, result: Array | Exception, message: str
) -> None:
    registry.serve([replace(model, runtime=Broken(result))], problem=None)
    answer = ask(app, "POST", INFER, json={"inputs": [ROW]})
    assert answer.status_code == 500
    assert message in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert 'code="500",model="iris"' in ask(app, "GET", "/metrics").text


def test_a_nan_output_is_a_500_and_never_null(
    ask: Ask, app: ASGIApp, registry: Registry, model: Model
) -> None:
    registry.serve([replace(model, runtime=Broken(np.array([[np.nan] * 3])))], problem=None)
    answer = ask(app, "POST", INFER, json={"inputs": [ROW], "outputs": [{"name": "predict_proba"}]})
    assert answer.status_code == 500
    assert "NaN or infinity" in answer.json()["error"]


def test_an_error_of_our_own_is_a_500_without_a_stack(
    ask: Ask, app: ASGIApp, registry: Registry, model: Model
) -> None:
    registry.serve([replace(model, sha256=object())], problem=None)  # type: ignore[arg-type]
    answer = ask(app, "GET", "/v2/models/iris")
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal server error; the log has the reason"}


@pytest.mark.parametrize(
    ("problem", "draining", "reason"),
    [
        ("models are loading", False, "models are loading"),
        ("model iris version 1 refused: why", False, "model iris version 1 refused: why"),
        (None, True, "the server is shutting down"),
    ],
)
def test_a_server_that_is_not_ready_says_why_and_stays_live(
    ask: Ask, registry: Registry, app: ASGIApp, problem: str | None, draining: bool, reason: str
) -> None:
    registry.problem = problem
    registry.draining = draining
    assert ask(app, "GET", "/v2/health/live").status_code == 200
    answer = ask(app, "GET", "/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {"live": True, "ready": False, "error": reason}


@pytest.mark.parametrize(("method", "path"), [("GET", "/ready"), ("GET", ""), ("POST", "/infer")])
def test_a_model_that_may_still_come_is_unavailable_and_not_unknown(
    ask: Ask, predictions: ThreadPoolExecutor, method: str, path: str
) -> None:
    app = create_app(Registry("models are loading"), SETTINGS, predictions)
    answer = ask(app, method, f"/v2/models/iris{path}")
    assert answer.status_code == 503
    assert answer.json() == {"error": "models are loading"}


def test_a_draining_server_still_answers_and_ends_its_connections(
    ask: Ask, registry: Registry, app: ASGIApp
) -> None:
    assert "connection" not in ask(app, "POST", INFER, json={"inputs": [ROW]}).headers
    registry.draining = True
    answer = ask(app, "POST", INFER, json={"inputs": [ROW]})
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_without_a_version_the_one_created_last_answers(
    ask: Ask, registry: Registry, app: ASGIApp, model: Model
) -> None:
    def version(name: str, created: str) -> Model:
        return replace(model, manifest=_with(model, version=name, created=created))

    registry.serve(
        [version("10", "2026-01-02T00:00:00Z"), version("9", "2026-01-03T00:00:00Z")],
        problem=None,
    )
    assert ask(app, "GET", "/v2/models/iris").json()["properties"]["version"] == "9"
    assert ask(app, "GET", "/v2/models/iris").json()["versions"] == ["10", "9"]
    assert ask(app, "GET", "/v2/models/iris/versions/10").json()["properties"]["version"] == "10"


def _with(model: Model, **changes: object) -> Any:
    import msgspec

    return msgspec.structs.replace(model.manifest, **changes)


class Slow:
    """A runtime that predicts when it is let go."""

    outputs = ("predict",)

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()

    def predict(self, _inputs: Mapping[str, Array], _outputs: Sequence[str]) -> Mapping[str, Array]:
        self.entered.release()
        assert self.let_go.wait(30)
        return {"predict": np.zeros(1, np.int64)}


def test_health_answers_while_every_prediction_thread_is_busy_and_more_work_is_turned_away(
    registry: Registry, app: ASGIApp, model: Model
) -> None:
    slow = Slow()
    registry.serve(
        [replace(model, runtime=slow, manifest=_with(model, outputs=(_predict(model),)))], problem=None
    )

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=30) as client:
            running = [asyncio.create_task(client.post(INFER, json={"inputs": [ROW]})) for _ in range(2)]
            for _ in running:
                assert await asyncio.to_thread(slow.entered.acquire, timeout=30)
            assert (await client.get("/v2/health/ready")).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert "model_server_requests_in_flight 2.0" in metrics
            refused = await client.post(INFER, json={"inputs": [ROW]})
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "busy" in refused.json()["error"]
            slow.let_go.set()
            assert [(await task).status_code for task in running] == [200, 200]
            assert (await client.post(INFER, json={"inputs": [ROW]})).status_code == 200

    asyncio.run(scenario())


def _predict(model: Model) -> Tensor:
    return model.manifest.outputs[0]


def test_metrics_count_inferences_by_model_version_and_code(ask: Ask, app: ASGIApp, model: Model) -> None:
    ask(app, "POST", INFER, json={"inputs": [ROW]})
    ask(app, "POST", INFER, content=b"{")
    ask(app, "POST", "/v2/models/unknown/infer", content=b"{")
    ask(app, "GET", "/v2/models/iris")
    lines = ask(app, "GET", "/metrics").text.splitlines()
    for line in (
        'model_server_requests_total{code="200",model="iris",version="1"} 1.0',
        'model_server_requests_total{code="400",model="iris",version="1"} 1.0',
        'model_server_requests_total{code="404",model="",version=""} 1.0',
        'model_server_request_duration_seconds_count{model="iris",version="1"} 2.0',
        "model_server_requests_in_flight 0.0",
        "model_server_ready 1.0",
        'model_server_model_info{format="sklearn-skops",model="iris",'
        f'sha256="{model.sha256}",version="1"}} 1.0',
    ):
        assert line in lines


def test_the_access_log_has_one_line_for_a_request_and_none_for_a_probe(
    ask: Ask, app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="access")
    for method, path in (("GET", "/v2/health/ready"), ("GET", "/metrics"), ("GET", "/v2/x"), ("POST", INFER)):
        ask(app, method, path)
    logged = [vars(record)["fields"] for record in caplog.records if record.name == "access"]
    assert [(line["path"], line["status"]) for line in logged] == [("/v2/x", 404), (INFER, 400)]
    assert (logged[1]["model"], logged[1]["version"]) == ("iris", "1")
