from __future__ import annotations

import asyncio
import functools
import http.server
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from serving_image import manifest

if TYPE_CHECKING:
    from tests.server.conftest import Edit, Serve, Server

INFER = "/v2/models/iris/infer"
ROW = {"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
# Where the framework does not matter: ONNX Runtime starts in a tenth of scikit-learn's time.
ONNX_INFER = "/v2/models/iris-onnx/infer"
ONNX_ROW = {**ROW, "name": "X", "datatype": "FP32"}


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_server_answers_like_the_model_and_exits_0(serve: Serve, iris: Path) -> None:
    from examples.iris.train import SAMPLE, train

    server = serve(iris, MODEL_SHA256=manifest.digest((iris / "manifest.json").read_bytes()))
    server.wait_until_ready()
    tensor = {"name": "input", "datatype": "FP64", "shape": [3, 4], "data": SAMPLE}
    outputs = server.infer(INFER, {"inputs": [tensor]}).json()["outputs"]
    assert outputs[0]["data"] == train("1").predict(SAMPLE).tolist()
    assert np.allclose(outputs[1]["data"], train("1").predict_proba(SAMPLE).ravel())
    assert server.terminate() == 0
    logged = server.log_lines()
    assert [line["path"] for line in logged if line["message"] == "request"] == [INFER]
    assert all({"time", "severity", "message"} <= set(line) for line in logged)


@pytest.mark.parametrize(
    ("change", "environment", "reason"),
    [
        (lambda copy: spoil(next(copy.glob("*/model.skops"))), {}, "model.skops: sha256 is"),
        (lambda copy: next(copy.glob("*/model.skops")).unlink(), {}, "No such file"),
        (
            lambda copy: (copy / "manifest.json").write_text("{"),
            {},
            "manifest.json: Input data was truncated",
        ),
        (lambda _: None, {"MODEL_SHA256": "0" * 64}, "MODEL_SHA256 says 0000"),
        (lambda _: None, {"MODEL_NAME": "wine"}, "MODEL_NAME says 'wine'"),
    ],
)
def test_a_server_whose_only_model_is_refused_ends_and_says_why(
    serve: Serve, iris_copy: Path, change: Callable[[Path], object], environment: dict[str, str], reason: str
) -> None:
    change(iris_copy)
    assert reason in serve(iris_copy, **environment).wait_until_it_gives_up()


def test_a_corrupt_model_with_an_honest_manifest_is_refused(
    serve: Serve, iris_copy: Path, replace_model: Callable[[Path, bytes], str]
) -> None:
    digest = replace_model(iris_copy, b"PK\x03\x04 not a model")
    server = serve(iris_copy, MODEL_SHA256=digest)
    assert "cannot be opened as sklearn-skops" in server.wait_until_it_gives_up()


def test_every_model_of_a_directory_is_served_and_the_bad_one_makes_it_unready(
    serve: Serve, iris: Path, onnx_iris: Path, edit_manifest: Edit, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    for directory, name in ((iris, "a"), (onnx_iris, "b"), (iris, "c")):
        shutil.copytree(directory, models / name)
    (models / "empty").mkdir()
    edit_manifest(models / "c", lambda content: content["frameworks"].update({"scikit-learn": "0.1.0"}))
    server = serve(models)
    reason = server.wait_until_unready()
    assert "made with scikit-learn 0.1.0" in reason
    assert server.infer(INFER, {"inputs": [ROW]}).status_code == 200
    assert server.get("/v2/models/iris-onnx/ready").status_code == 200
    assert server.get("/metrics").text.count("model_server_model_info{") == 2


def test_a_digest_for_a_directory_of_several_models_is_refused(
    serve: Serve, iris: Path, onnx_iris: Path, tmp_path: Path
) -> None:
    for directory, name in ((iris, "a"), (onnx_iris, "b")):
        shutil.copytree(directory, tmp_path / "models" / name)
    server = serve(tmp_path / "models", MODEL_SHA256="0" * 64)
    assert "name one model" in server.wait_until_it_gives_up()


def test_a_model_that_arrives_late_is_still_loaded(serve: Serve, onnx_iris: Path, tmp_path: Path) -> None:
    directory = tmp_path / "late"
    server = serve(directory)
    assert "cannot be read: No such file" in server.wait_until_unready()
    shutil.copytree(onnx_iris, tmp_path / "arriving")
    (tmp_path / "arriving").rename(directory)
    server.wait_until_ready()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A model store that answers over HTTP: its URL and its directory."""
    directory = tmp_path / "store"
    directory.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """pytest has the server's own log."""

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", directory
        server.shutdown()


def test_a_model_is_downloaded_from_a_url_and_verified(
    serve: Serve, onnx_iris: Path, store: tuple[str, Path], tmp_path: Path
) -> None:
    url, directory = store
    shutil.copytree(onnx_iris, directory / "models/iris/1")
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    server = serve(
        f"{url}/models/iris/1",
        MODEL_SHA256=manifest.digest((onnx_iris / "manifest.json").read_bytes()),
        TMPDIR=str(scratch),
        HOME=str(home),
    )
    server.wait_until_ready()
    assert server.infer(ONNX_INFER, {"inputs": [ONNX_ROW]}).json()["outputs"][0]["data"] == [0]
    # Neither a download is left behind nor the device id of onnxruntime's telemetry.
    assert [*scratch.iterdir(), *home.iterdir()] == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [(lambda model: model[:-1] + b"x", "sha256 is"), (lambda model: model + b"x", "more bytes in the store")],
)
def test_other_bytes_at_a_url_are_refused(
    serve: Serve, onnx_iris: Path, store: tuple[str, Path], content: Callable[[bytes], bytes], reason: str
) -> None:
    url, directory = store
    shutil.copytree(onnx_iris, directory / "1")
    (file,) = (directory / "1").glob("*/model.onnx")
    file.write_bytes(content(file.read_bytes()))
    assert reason in serve(f"{url}/1").wait_until_it_gives_up()


def test_a_store_that_does_not_answer_is_named(serve: Serve, store: tuple[str, Path]) -> None:
    url, _ = store
    assert f"MODEL_URI {url}/none cannot be read" in serve(f"{url}/none").wait_until_unready()


def test_sigterm_drains_then_finishes_what_was_begun(serve: Serve, onnx_iris: Path) -> None:
    server = serve(onnx_iris, DRAIN_SECONDS="2")
    server.wait_until_ready()
    body = httpx.Request("POST", server.url + ONNX_INFER, json={"inputs": [ONNX_ROW]}).content
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as begun:
        # All but the last byte: in flight until that one is sent.
        begun.sendall(
            f"POST {ONNX_INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body[:-1]
        )
        server.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        answer = server.wait_until(lambda answer: answer.status_code == 503)
        assert answer.json()["error"] == "the server is shutting down"
        served = 0
        while True:
            try:
                # A connection of its own, as new traffic has.
                answer = httpx.post(server.url + ONNX_INFER, content=body, timeout=30)
            except httpx.TransportError:
                break
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
            served += 1
        assert served > 0
        assert time.monotonic() - signalled >= 2
        assert server.process.poll() is None
        begun.sendall(body[-1:])
        assert begun.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(30) == 0


def test_clients_that_keep_their_connections_are_sent_away_without_losing_a_request(
    serve: Serve, onnx_iris: Path
) -> None:
    server = serve(onnx_iris, DRAIN_SECONDS="30")
    server.wait_until_ready()

    async def load() -> list[int]:
        statuses: list[int] = []
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

            async def user() -> None:
                answer = None
                while answer is None or answer.headers.get("connection") != "close":
                    answer = await client.post(ONNX_INFER, json={"inputs": [ONNX_ROW]})
                    statuses.append(answer.status_code)

            users = [asyncio.create_task(user()) for _ in range(4)]
            while len(statuses) < 20:
                await asyncio.sleep(0)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*users)
        return statuses

    assert set(asyncio.run(load())) == {200}


def raw(server: Server, request: bytes) -> bytes:
    """The whole answer to bytes that no HTTP client would send."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def test_what_is_not_http_or_is_too_large_gets_an_error_and_a_closed_connection(
    serve: Serve, onnx_iris: Path
) -> None:
    server = serve(onnx_iris, MAX_REQUEST_BYTES="1000")
    server.wait_until_ready()
    assert b'\r\n\r\n{"error":"Invalid HTTP request received."}' in raw(server, b"NONSENSE\r\n\r\n")
    head = f"POST {ONNX_INFER} HTTP/1.1\r\nHost: x\r\n".encode()
    too_long = raw(server, head + b"Content-Length: 1001\r\n\r\n" + b" " * 1001)
    assert too_long.startswith(b"HTTP/1.1 413 ")
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    assert raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk).startswith(b"HTTP/1.1 413 ")
    pushy = raw(server, head + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    assert pushy.startswith(b"HTTP/1.1 413 ")
    assert server.get("/v2/health/ready").status_code == 200


def test_a_client_that_leaves_half_way_gives_its_place_back(serve: Serve, onnx_iris: Path) -> None:
    server = serve(onnx_iris, MAX_PENDING_REQUESTS="1")
    server.wait_until_ready()
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(
                f"POST {ONNX_INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
            )
    server.wait_until(lambda _: "requests_in_flight 0.0" in server.get("/metrics").text)
    assert server.infer(ONNX_INFER, {"inputs": [ONNX_ROW]}).status_code == 200
    assert not [line for line in server.log_lines() if line["severity"] == "ERROR"]


def test_wrong_settings_end_the_process_with_every_reason(serve: Serve, onnx_iris: Path) -> None:
    server = serve(onnx_iris, AIP_HTTP_PORT="none", DRAIN_SECONDS="soon")
    assert server.process.wait(30) == 1
    (line,) = server.log_lines()
    assert "AIP_HTTP_PORT='none'" in line["message"]
    assert "DRAIN_SECONDS='soon'" in line["message"]


def test_a_taken_port_ends_the_process_and_is_named(serve: Serve, onnx_iris: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(onnx_iris, AIP_HTTP_PORT=str(port))
        assert server.process.wait(30) == 1
    (line,) = server.log_lines()
    assert line["message"] == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_liveness_does_not_wait_for_the_model(serve: Serve, tmp_path: Path) -> None:
    server = serve(tmp_path / "nothing")
    server.wait_until(lambda answer: answer.status_code == 503)
    assert server.get("/v2/health/live").json() == {"live": True}
    answer: Any = server.get("/v2/health/ready").json()
    assert answer["ready"] is False
