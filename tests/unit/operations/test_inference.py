"""Asking endpoints, against a real HTTP server that answers what a test tells it to."""

from __future__ import annotations

import http.server
import json
import math
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from operations import inference
from operations.errors import OperationError
from operations.inference import Exchange
from serving_image import manifest as schema
from serving_image.manifest import Manifest

MakeArtifact = Callable[..., Path]
Answer = tuple[int, object]

INFER = "/v2/models/iris/infer"
METADATA = {"name": "iris", "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]}
PREDICTION: dict[str, Any] = {
    "outputs": [{"name": "predict", "datatype": "INT64", "shape": [1], "data": [0]}]
}


@dataclass(kw_only=True)
class Server:
    """`answers` by path: status and body (bytes as they are, else JSON). `requests` is what was asked."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)

    def asked(self, path: str) -> Any:
        (body,) = (body for _, asked, body in self.requests if asked == path)
        return body


def _listen(port: int = 0) -> tuple[http.server.ThreadingHTTPServer, Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorded.requests.append((self.command, self.path, json.loads(content) if content else None))
            status, body = recorded.answers.get(self.path, (404, {"error": f"no such path: {self.path}"}))
            encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(encoded)

        do_POST = do_GET  # noqa: N815 - the names are http.server's

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Tests are silent."""

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    recorded = Server(url=f"http://127.0.0.1:{listener.server_port}")
    return listener, recorded


@pytest.fixture
def server() -> Iterator[Server]:
    listener, server = _listen()
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def manifest(make_artifact: MakeArtifact) -> Manifest:
    """Its sample asks for 1.0 and expects `output` to be 0.5."""
    return schema.load((make_artifact() / schema.FILE_NAME).read_bytes())


def outputs(*values: object, name: str = "output") -> dict[str, Any]:
    return {"outputs": [{"name": name, "datatype": "FP32", "shape": [len(values)], "data": list(values)}]}


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ("[[5.1, 3.5, 1.4, 0.2]]", [1, 4]),
        ("[[1, 2], [3, 4], [5, 6]]", [3, 2]),
        ("[]", [0]),
        ('["text"]', [1]),
        ("[[[1]], [[2]]]", [2, 1, 1]),
    ],
)
def test_an_array_becomes_a_request_for_the_models_one_input(
    data: str, shape: list[int], server: Server
) -> None:
    server.answers = {"/v2/models/iris": (200, METADATA), INFER: (200, PREDICTION)}
    assert inference.predict(server.url, "iris", data) == PREDICTION
    tensor = {"name": "input", "datatype": "FP64", "shape": shape, "data": json.loads(data)}
    assert server.asked(INFER) == {"inputs": [tensor]}


def test_an_object_is_sent_as_it_is_and_nothing_else_is_asked(server: Server) -> None:
    server.answers = {INFER: (200, PREDICTION)}
    request = {"id": "7", "inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": ["'\"$é"]}]}
    assert inference.predict(server.url, "iris", json.dumps(request)) == PREDICTION
    assert server.requests == [("POST", INFER, request)]


@pytest.mark.parametrize("data", ["", "[1,", "5.1, 3.5", "[[NaN]]", "[Infinity]", 100_000 * "["])
def test_data_that_is_no_json_is_refused_before_anything_is_asked(data: str, server: Server) -> None:
    with pytest.raises(
        OperationError, match=r"^data '.*': not JSON \(.*\); expected an array such as '\[\[5\.1"
    ):
        inference.predict(server.url, "iris", data)
    assert server.requests == []


@pytest.mark.parametrize("inputs", [[], [{"name": "a"}, {"name": "b"}]])
def test_an_array_for_a_model_of_several_inputs_is_refused_with_their_names(
    inputs: list[dict[str, str]], server: Server
) -> None:
    server.answers = {"/v2/models/iris": (200, METADATA | {"inputs": inputs})}
    names = ", ".join(tensor["name"] for tensor in inputs)
    with pytest.raises(
        OperationError, match=f"^model 'iris': has the inputs {names}; give a whole request: "
    ):
        inference.predict(server.url, "iris", "[1]")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"error": "input 'input': expected 4 columns"}, "HTTP 400: input 'input': expected 4 columns"),
        (503, {"error": "models are loading"}, "HTTP 503: models are loading"),
        (500, b"<h1>Internal Server Error</h1>\n", "HTTP 500: <h1>Internal Server Error</h1>"),
        (500, ["error"], 'HTTP 500: ["error"]'),
        (500, {"message": "?"}, 'HTTP 500: {"message": "?"}'),
        (502, 10_000 * b"x", f"HTTP 502: {500 * 'x'}$"),
        (302, b"", "HTTP 302: "),
    ],
)
def test_a_refusal_is_told_in_the_servers_own_words(
    status: int, body: object, message: str, server: Server
) -> None:
    server.answers = {INFER: (status, body)}
    with pytest.raises(OperationError) as caught:
        inference.predict(server.url, "iris", "{}")
    assert str(caught.value) == f"{server.url}{INFER}: {message.removesuffix('$')}"


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", [], {}, "text", {"outputs_": []}])
def test_an_answer_of_something_else_than_a_model_server_is_no_prediction(
    body: object, server: Server
) -> None:
    server.answers = {INFER: (200, body), "/v2/models/iris": (200, body)}
    for data in ("{}", "[1]"):
        with pytest.raises(
            OperationError, match=rf"^{server.url}/v2/models/iris.*: not a model server's answer: "
        ):
            inference.predict(server.url, "iris", data)


def test_where_nothing_answers_the_message_says_what_to_ask_next(closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(OperationError, match=rf"^{url}{INFER}: .*refused.*; is it up\? \./maas status$"):
        inference.predict(url, "iris", "{}")


def test_no_proxy_of_the_environment_comes_between(
    server: Server, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    server.answers = {INFER: (200, PREDICTION)}
    assert inference.predict(server.url, "iris", "{}") == PREDICTION


VERSIONED = "/v2/models/iris/versions/1/infer"


@pytest.mark.parametrize(
    "answer",
    [outputs(0.5), outputs(0.500001), {"outputs": [*PREDICTION["outputs"], *outputs(0.5)["outputs"]]}],
)
def test_the_answer_to_the_manifests_sample_is_repeatable(
    answer: dict[str, Any], manifest: Manifest, server: Server
) -> None:
    server.answers = {VERSIONED: (200, answer)}
    exchange = inference.verify_model(server.url, manifest)
    assert server.asked(VERSIONED) == manifest.sample.request == exchange.request
    assert exchange.url == f"{server.url}{VERSIONED}"
    assert json.loads(exchange.response) == answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (outputs(0.6), "[0.6]"),
        (outputs(0.5, 0.5), "[0.5, 0.5]"),
        (outputs(), "[]"),
        (outputs(None), "[None]"),
        (outputs("0.5"), "['0.5']"),
        (outputs(math.nan), "[nan]"),
        (outputs(0.5, name="other"), "None"),
        ({"outputs": []}, "None"),
    ],
)
def test_an_answer_that_differs_from_the_manifests_is_an_error(
    answer: dict[str, Any], found: str, manifest: Manifest, server: Server
) -> None:
    server.answers = {VERSIONED: (200, answer)}
    with pytest.raises(OperationError) as caught:
        inference.verify_model(server.url, manifest)
    wanted = f"answers the manifest's sample with output = {found}, the manifest says [0.5]"
    assert str(caught.value) == f"{server.url}{VERSIONED}: {wanted}"


@pytest.mark.parametrize(
    ("expected", "found", "close"),
    [
        ([10_000], [10_001], False),
        ([10_000.0], [10_000.1], True),
        ([1, 2.0], [1.0, 2], True),
        ([[0.5], [0.25]], [[0.5], [0.25]], True),
        ([0.5, 0.25], [[0.5], [0.25]], False),
        ([0.0], [1e-9], True),
        ([None], [None], True),
        (["setosa"], ["setosa"], True),
        (["setosa"], ["virginica"], False),
        ([True], [False], False),
    ],
)
def test_numbers_with_a_fraction_may_differ_by_rounding_and_nothing_else(
    expected: list[object], found: list[object], close: bool, manifest: Manifest, server: Server
) -> None:
    manifest.sample.response["outputs"] = outputs(*expected)["outputs"]
    server.answers = {VERSIONED: (200, outputs(*found))}
    if close:
        inference.verify_model(server.url, manifest)
    else:
        with pytest.raises(OperationError, match="answers the manifest's sample with"):
            inference.verify_model(server.url, manifest)


def test_a_service_is_healthy_when_its_path_answers_2xx(server: Server) -> None:
    server.answers = {"/healthz": (204, b""), "/ready?full=1": (200, b" ok\n")}
    assert inference.verify_health(server.url, "/healthz").response == ""
    exchange = inference.verify_health(server.url, "/ready?full=1")
    assert exchange == Exchange(url=f"{server.url}/ready?full=1", request=None, response="ok")


@pytest.mark.parametrize("status", [302, 400, 422, 500])
def test_a_refusal_is_an_error_at_once(status: int, manifest: Manifest, server: Server) -> None:
    server.answers = {path: (status, {"error": "not now"}) for path in ("/healthz", VERSIONED)}
    verifications: list[Callable[[], object]] = [
        lambda: inference.verify_health(server.url, "/healthz"),
        lambda: inference.verify_model(server.url, manifest),
    ]
    for verify in verifications:
        server.requests.clear()
        with pytest.raises(OperationError, match=f"HTTP {status}: not now$"):
            verify()
        assert len(server.requests) == 1


def test_no_connection_is_asked_again_until_there_is_one(
    closed_port: int, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server opens its port between two questions, in the pause that a user would not notice."""
    pauses: list[float] = []
    started: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            listener, server = _listen(closed_port)
            server.answers = {VERSIONED: (200, outputs(0.5))}
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            started.append((listener, thread))

    monkeypatch.setattr("operations.inference.time.sleep", pause)
    try:
        inference.verify_model(f"http://127.0.0.1:{closed_port}", manifest)
        assert len(pauses) == 3
    finally:
        for listener, thread in started:
            listener.shutdown()
            thread.join()
            listener.server_close()


@pytest.mark.parametrize("status", [404, 503])
def test_the_version_before_or_one_that_ends_may_answer_until_the_new_one_is_routed_to(
    status: int, manifest: Manifest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.answers = {VERSIONED: (200, outputs(0.5))}

    monkeypatch.setattr("operations.inference.time.sleep", pause)
    server.answers = {VERSIONED: (status, {"error": "not this version"})}
    inference.verify_model(server.url, manifest)
    assert len(pauses) == 3


def test_what_is_not_routed_to_is_an_error_after_the_deadline(closed_port: int, server: Server) -> None:
    with pytest.raises(OperationError, match=r"is it up\? \./maas status$"):
        inference.verify_health(f"http://127.0.0.1:{closed_port}", "/healthz", timeout_seconds=0)
    with pytest.raises(OperationError, match=r"HTTP 404: no such path: /healthz$"):
        inference.verify_health(server.url, "/healthz", timeout_seconds=0)


def test_a_prediction_for_a_person_is_not_asked_again(server: Server) -> None:
    with pytest.raises(OperationError, match="HTTP 404: "):
        inference.predict(server.url, "iris", "{}")
    assert len(server.requests) == 1


REQUESTS: list[Mapping[str, Any] | None] = [
    None,
    {"inputs": []},
    {"inputs": [{"data": ["it's", '"quoted"', "$HOME `id` \\ \\' !", "é\n\t", "'; echo pwned; '"]}]},
]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("path", ["/healthz", "/ready?a=1&b=$(id);c='d'"])
def test_the_curl_line_means_the_same_request_to_a_shell(
    request_: Mapping[str, Any] | None, path: str
) -> None:
    line = Exchange(url=f"http://127.0.0.1:30080{path}", request=request_, response="").curl
    assert "\n" not in line
    shell = subprocess.run(
        ["sh", "-c", f'curl() {{ printf "%s\\0" "$@"; }}; {line}'], capture_output=True, text=True, check=True
    )
    url, *rest = shell.stdout.removesuffix("\0").split("\0")
    assert [url, *rest] == shlex.split(line)[1:]
    assert url == f"http://127.0.0.1:30080{path}"
    if request_ is None:
        assert rest == []
    else:
        *options, body = rest
        assert options == ["-H", "Content-Type: application/json", "-d"]
        assert json.loads(body) == request_


def test_the_curl_line_of_a_plain_address_has_no_needless_quotes() -> None:
    assert Exchange(url="http://127.0.0.1:30081/healthz", request=None, response="").curl == (
        "curl http://127.0.0.1:30081/healthz"
    )
