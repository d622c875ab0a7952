"""One clear error each, exit code not zero, and what runs keeps running."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from cli.platforms import layout
from machine.layout import Layout
from tests.e2e.conftest import IRIS_PORT, ROOT, STATE, Checkout


def still_serving() -> bool:
    return httpx.get(f"http://127.0.0.1:{IRIS_PORT}/v2/health/ready", trust_env=False).status_code == 200


@contextmanager
def holding(statement: str) -> Iterator[int]:
    """Another process that has run the statement and stays; gives its id."""
    program = f"import socket, sys; from pathlib import Path; {statement}; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate()


def test_every_mistake_of_a_stack_file_is_reported_at_once(platform: Checkout) -> None:
    platform.edit("posture: development", "posture: relaxed")
    platform.edit("nodePort: 31080", "nodePort: 80")
    platform.edit("port: 8000", "prot: 8000")
    printed = platform.maas("up", expect=1)
    for words in ("relaxed", "development or production", "30000", "prot", "port"):
        assert words in printed
    assert "4 problems" in printed
    assert still_serving()


def test_a_model_that_is_not_published_is_named_with_those_that_are(platform: Checkout) -> None:
    before = platform.stack_file.read_text()
    printed = platform.maas("deploy", "iris@9", expect=1)
    assert "iris@9" in printed
    assert "published are 1" in printed
    assert platform.stack_file.read_text() == before
    assert still_serving()


def test_a_digest_that_does_not_match_is_refused_before_anything_changes(platform: Checkout) -> None:
    platform.edit("sha256: [0-9a-f]{64}", f"sha256: {'a' * 64}")
    printed = platform.maas("up", expect=1)
    assert "a" * 64 in printed
    assert still_serving()


def test_a_file_that_is_no_model_is_refused(platform: Checkout, tmp_path: Path) -> None:
    corrupt = tmp_path / "broken.skops"
    corrupt.write_bytes(b"not a zip file")
    printed = platform.maas("publish", str(corrupt), "--name", "broken", expect=1)
    assert "broken.skops" in printed
    assert "broken" not in platform.maas("models")


def test_a_failing_image_build_shows_its_last_lines(platform: Checkout) -> None:
    dockerfile = platform.root / "examples" / "flask" / "Dockerfile"
    before = dockerfile.read_text()
    dockerfile.write_text(before + 'RUN echo "the disk is on fire" && false\n')
    try:
        printed = platform.maas("up", expect=1)
    finally:
        dockerfile.write_text(before)
    assert "the disk is on fire" in printed
    assert still_serving()


def test_a_taken_port_is_reported_with_who_holds_it(platform: Checkout) -> None:
    port = 31099
    with holding(f"server = socket.create_server(('127.0.0.1', {port}))") as pid:
        platform.edit("nodePort: 31081", f"nodePort: {port}")
        printed = platform.maas("up", expect=1)
    assert f"127.0.0.1:{port}" in printed
    assert f"pid {pid}" in printed
    assert still_serving()


def test_of_two_ups_at_once_one_is_told_who_holds_the_lock(platform: Checkout) -> None:
    cache = layout().cache
    path = cache / f"{Layout(state=STATE, cache=cache).identity}.lock"
    assert path.exists()
    with holding(
        f"from operations import lock; held = lock.exclusive(Path({str(path)!r}), 'maas up'); held.__enter__()"
    ) as pid:
        printed = platform.maas("up", expect=1)
    assert "another command is changing this platform" in printed
    assert f"maas up (pid {pid}" in printed
    assert still_serving()
