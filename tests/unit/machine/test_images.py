"""Images: when one has to be built again, and what is told when that fails."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from machine import images
from machine.errors import MachineError
from machine.images import ImageBuilder, Registry
from machine.layout import Layout
from machine.progress import Step

Program = Callable[[str, str], Path]

DIGEST = f"sha256:{64 * 'a'}"
BASE = f"127.0.0.1:5000/base@{DIGEST}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "examples" / "My App_2"
    (folder / "package").mkdir(parents=True)
    (folder / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    (folder / "package" / "app.py").write_text("print(1)\n")
    (folder / "package" / "other.py").write_text("print(2)\n")
    return folder


def key(folder: Path, base: str = BASE) -> str:
    return images._folder_key(folder, base)


def test_an_image_is_the_same_for_the_same_content(folder: Path) -> None:
    before = key(folder)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    (folder / "package" / "__pycache__").mkdir()
    (folder / "package" / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"compiled")
    (folder / "package" / "app.py").chmod(0o600)  # a checkout's umask is nobody's intention
    assert key(folder) == before


def test_an_image_is_the_same_wherever_the_folder_is(folder: Path, tmp_path: Path) -> None:
    before = key(folder)
    assert key(folder.rename(tmp_path / "moved")) == before


def test_an_image_is_the_same_whatever_address_its_base_was_pulled_from(folder: Path) -> None:
    assert key(folder) == key(folder, f"registry.example/base@{DIGEST}")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda folder: (folder / "package" / "app.py").write_text("print(3)\n"),
    "mode": lambda folder: (folder / "package" / "app.py").chmod(0o755),
    "name": lambda folder: (folder / "package" / "app.py").rename(folder / "package" / "main.py"),
    "place": lambda folder: (folder / "package" / "app.py").rename(folder / "app.py"),
    "more": lambda folder: (folder / "package" / "empty.py").write_text(""),
    "less": lambda folder: (folder / "package" / "other.py").unlink(),
    "swapped": lambda folder: (
        (folder / "package" / "app.py").write_text("print(2)\n"),
        (folder / "package" / "other.py").write_text("print(1)\n"),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_the_folder_is_another_image(change: Callable[[Path], object], folder: Path) -> None:
    before = key(folder)
    change(folder)
    assert key(folder) != before


def test_another_base_is_another_image(folder: Path) -> None:
    assert key(folder) != key(folder, f"127.0.0.1:5000/base@sha256:{64 * 'b'}")


@pytest.mark.parametrize("constant", ["_SUITE", "_BASE_PACKAGES", "_DOCUMENTATION", "_EPOCH"])
def test_another_recipe_is_another_base(constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = images._base_key()
    value = getattr(images, constant)
    monkeypatch.setattr(images, constant, f"{value}1" if isinstance(value, str) else (*value, "more"))
    assert images._base_key() != before


def test_an_image_is_named_after_its_folder_as_registries_allow(folder: Path) -> None:
    assert images._repository(folder) == "my-app-2"
    assert images._repository(Path("serving_image")) == "serving-image"


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("198.18.4.2:5000", True),
        ("198.19.255.254:5000", True),
        ("198.20.0.1:5000", False),
        ("registry.example", False),
        ("registry.example:5000/team", False),
        ("198.181.0.1:5000", False),
        ("localhost.example:5000", False),
    ],
)
def test_only_a_registry_of_this_machine_is_spoken_to_without_tls(address: str, plain: bool) -> None:
    assert Registry(name="it", address=address).plain_http is plain


class _FakeRegistry(http.server.ThreadingHTTPServer):
    """Has what `status` says it has."""

    status = HTTPStatus.OK
    asked: list[str]


@pytest.fixture
def registry() -> Iterator[_FakeRegistry]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            server.asked.append(self.path)
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Tests are silent."""

    server = _FakeRegistry(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def recorded_builder(layout: Layout, address: str, folder: Path) -> ImageBuilder:
    """A builder that remembers having built the base and the folder's image."""
    builder = ImageBuilder(layout, Registry(name="maas.local", address=address))
    builder._digests.mkdir(parents=True)
    (builder._digests / f"base-{images._base_key()}").write_text(BASE)
    name = images._repository(folder)
    (builder._digests / f"{name}-{key(folder)}").write_text(f"maas.local/{name}@{DIGEST}")
    return builder


def test_an_image_that_was_never_built_is_unknown(layout: Layout, folder: Path) -> None:
    assert ImageBuilder(layout, Registry(name="maas.local", address="127.0.0.1:1")).built(folder) is None


def test_an_image_is_known_as_long_as_its_content_is_the_same_and_the_registry_has_it(
    layout: Layout, folder: Path, registry: _FakeRegistry
) -> None:
    builder = recorded_builder(layout, f"127.0.0.1:{registry.server_port}", folder)
    assert builder.built(folder) == f"maas.local/my-app-2@{DIGEST}"
    assert registry.asked[-1] == f"/v2/my-app-2/manifests/{DIGEST}"
    registry.status = HTTPStatus.NOT_FOUND
    assert builder.built(folder) is None
    registry.status = HTTPStatus.OK
    (folder / "Dockerfile").write_text("FROM scratch\n")
    assert builder.built(folder) is None


def test_a_registry_that_does_not_answer_is_an_error(layout: Layout, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(MachineError, match=f"^image registry {address}: .*refused"):
        recorded_builder(layout, address, folder).built(folder)


def test_a_folder_without_a_dockerfile_is_refused(layout: Layout, folder: Path, step: Step) -> None:
    (folder / "Dockerfile").unlink()
    builder = ImageBuilder(layout, Registry(name="maas.local", address="127.0.0.1:1"))
    with pytest.raises(MachineError, match=f"^image folder {folder}: has no Dockerfile$"):
        builder.build(folder, step)


def test_a_failing_build_shows_its_last_lines(program: Program) -> None:
    buildah = program("buildah", "seq 1 30; echo 'no such file: app.py' >&2; exit 125")
    with pytest.raises(MachineError) as caught:
        images._run([str(buildah)], "buildah build")
    first, *rest = str(caught.value).splitlines()
    assert first == "buildah build failed, its last lines:"
    assert rest == [*map(str, range(17, 31)), "no such file: app.py"]


def test_what_goes_into_an_image_is_readable_whatever_the_umask_of_the_checkout(folder: Path) -> None:
    (folder / "start.sh").write_text("#!/bin/sh\n")
    (folder / "start.sh").chmod(0o700)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    images._make_readable(folder)
    for path in folder.rglob("*"):
        wanted = 0o755 if path.is_dir() or path.name == "start.sh" else 0o644
        assert path.stat().st_mode & 0o777 == wanted, path
