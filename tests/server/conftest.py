"""What the server's tests share: artifacts to spoil, a client in this process, a server in its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_image import manifest
from serving_image.describe import describe

ROOT = Path(__file__).parent.parent.parent
DEADLINE_SECONDS = 60
# Between two looks at a condition; to look without a pause would take the CPU from what is waited for.
PAUSE_SECONDS = 0.02

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], str]


@pytest.fixture(scope="session")
def iris() -> Path:
    """The committed artifact, for reading only."""
    return ROOT / "examples/models/iris/1"


@pytest.fixture
def iris_copy(iris: Path, tmp_path: Path) -> Path:
    """An artifact to spoil."""
    return Path(shutil.copytree(iris, tmp_path / "iris-1"))


@pytest.fixture
def edit_manifest() -> Edit:
    """Change a manifest in place; returns its new digest."""

    def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> str:
        file = directory / manifest.FILE_NAME
        content = json.loads(file.read_bytes())
        change(content)
        file.write_text(json.dumps(content))
        return manifest.digest(file.read_bytes())

    return edit


@pytest.fixture
def replace_model(edit_manifest: Edit) -> Callable[[Path, bytes], str]:
    """Put other bytes in place of the model file and make the manifest agree; returns the new digest."""

    def replace(directory: Path, content: bytes) -> str:
        def change(description: dict[str, Any]) -> None:
            (path,) = description["files"]
            (directory / path).write_bytes(content)
            description["files"][path] = {"sha256": manifest.digest(content), "size": len(content)}

        return edit_manifest(directory, change)

    return replace


@pytest.fixture(scope="session")
def onnx_iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of an ONNX model that answers like the iris example."""
    import numpy as np
    from skl2onnx import to_onnx

    from examples.iris.train import SAMPLE, train

    directory = tmp_path_factory.mktemp("onnx")
    estimator = train("1")
    converted = to_onnx(estimator, np.zeros((1, 4), np.float32), options={id(estimator): {"zipmap": False}})
    (directory / "iris.onnx").write_bytes(converted.SerializeToString())
    described, files = describe(directory / "iris.onnx", "iris-onnx", "1", "test", SAMPLE)
    for path, content in files.items():
        (directory / path).parent.mkdir()
        (directory / path).write_bytes(content)
    (directory / manifest.FILE_NAME).write_bytes(manifest.dump(described))
    return directory


@pytest.fixture
def predictions() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask() -> Ask:
    """Send one request to an ASGI application in this process."""

    def send(app: Any, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(exchange())

    return send


@dataclass
class Server:
    """A server process on a free loopback port."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    client: httpx.Client = field(default_factory=httpx.Client)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self.url + path, timeout=DEADLINE_SECONDS)

    def infer(self, path: str, body: object) -> httpx.Response:
        return self.client.post(self.url + path, json=body, timeout=DEADLINE_SECONDS)

    def wait_until(self, condition: Callable[[httpx.Response], bool]) -> httpx.Response:
        """Ask for readiness until the answer satisfies the condition."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.TransportError):
                answer = self.get("/v2/health/ready")
                if condition(answer):
                    return answer
            time.sleep(PAUSE_SECONDS)
        raise AssertionError(f"no such state before the deadline; log: {self.log.read_text()}")

    def wait_until_ready(self) -> None:
        self.wait_until(lambda answer: answer.status_code == 200)

    def wait_until_it_gives_up(self) -> str:
        """The last words of a server that has nothing to serve and never will; its exit code is 1."""
        assert self.process.wait(DEADLINE_SECONDS) == 1
        errors = [line["message"] for line in self.log_lines() if line["severity"] == "ERROR"]
        assert len(errors) == 1
        return str(errors[0])

    def wait_until_unready(self) -> str:
        """Why the server is not ready, once it has looked at the model."""
        answer = self.wait_until(lambda answer: answer.json()["error"] != "models are loading")
        assert answer.status_code == 503
        return str(answer.json()["error"])

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)


Serve = Callable[..., Server]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def serve(free_port: int, tmp_path: Path) -> Iterator[Serve]:
    """Start `python -m serving_image.server` as the image does; at most one a test."""
    started: list[Server] = []

    def start(model_uri: Path | str, **environment: str) -> Server:
        log = tmp_path / "server.log"
        variables: Mapping[str, str] = {
            **os.environ,
            "MODEL_URI": str(model_uri),
            "HOST": "127.0.0.1",
            "AIP_HTTP_PORT": str(free_port),
            "DRAIN_SECONDS": "0",
            **environment,
        }
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "serving_image.server"], cwd=ROOT, env=variables, stderr=stream
            )
        started.append(Server(process=process, url=f"http://127.0.0.1:{free_port}", log=log))
        return started[-1]

    yield start
    for server in started:
        server.client.close()
        server.process.kill()
        server.process.wait()
