"""The server's process: its socket, its signals and its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving_image.server import logs
from serving_image.server.http import create_app, error_body
from serving_image.server.registry import Registry, load
from serving_image.server.settings import Settings, SettingsError, from_environment

_log = logging.getLogger(__name__)
_TERMINATION_LOG = Path("/dev/termination-log")
# Longer than the idle time of usual load balancers (60 s), so that they, not we, close an idle connection.
_KEEP_ALIVE_SECONDS = 75


class _HttpProtocol(HttpToolsProtocol):
    """A request that is not HTTP gets an error in the same form as any other."""

    def send_400_response(self, msg: str) -> None:
        body = error_body(msg)
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[HTTPStatus.BAD_REQUEST] + head + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Drains before it stops accepting; uvicorn alone stops at once, and ends by the signal instead of 0."""

    def __init__(self, config: uvicorn.Config, registry: Registry, settings: Settings) -> None:
        super().__init__(config)
        self._registry = registry
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # A daemon: a download that hangs must not keep the process from ending.
        threading.Thread(
            target=self._load, args=(asyncio.get_running_loop(),), name="load", daemon=True
        ).start()

    def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        load(self._registry, self._settings)
        if self._registry.hopeless:
            # An orchestrator sees, reports and retries a process that ends; one that is never ready waits unseen.
            loop.call_soon_threadsafe(self._stop)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        yield

    def _drain(self) -> None:
        # A server that was never ready has no traffic to wait for.
        wait = self._settings.drain_seconds if self._registry.not_ready is None else 0
        self._registry.draining = True
        _log.info("draining for %g s", wait)
        asyncio.get_running_loop().call_later(wait, self._stop)

    def _stop(self) -> None:
        self._registry.draining = True
        self.should_exit = True


def run(cpus: int) -> int:
    """Serve until a signal. Returns the exit code."""
    logs.configure()
    try:
        settings = from_environment(os.environ, cpus)
        listener = _listen(settings)
    except (SettingsError, OSError) as error:
        return _fail(str(error))
    registry = Registry()
    with ThreadPoolExecutor(settings.prediction_threads, thread_name_prefix="predict") as predictions:
        config = uvicorn.Config(
            create_app(registry, settings, predictions),
            http=_HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        uvloop.run(_Server(config, registry, settings).serve(sockets=[listener]))
    if registry.problem is not None:
        _write_last_words(registry.problem)
    return 1 if registry.hopeless else 0


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = (settings.host, settings.port)
    try:
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"cannot listen on {settings.host} port {settings.port}: {os.strerror(error.errno or 0)}"
        ) from error


def _fail(message: str) -> int:
    _log.error(message)
    _write_last_words(message)
    return 1


def _write_last_words(message: str) -> None:
    # Only Kubernetes makes this file; creating one would litter a machine's /dev.
    with suppress(OSError), _TERMINATION_LOG.open("r+") as stream:
        stream.write(message)
