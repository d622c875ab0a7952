from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving_image import manifest
from serving_image.manifest import ManifestError


@pytest.fixture
def content(iris: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((iris / "manifest.json").read_bytes())
    return result


def load(content: object) -> manifest.Manifest:
    return manifest.load(json.dumps(content).encode())


def test_a_manifest_survives_being_written_and_read(content: dict[str, Any]) -> None:
    read = load(content)
    assert manifest.load(manifest.dump(read)) == read


def test_the_digest_is_that_of_the_bytes() -> None:
    assert manifest.digest(b"{}") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 2, "schema 2: this release reads schema 1"),
        ("name", "Iris", "name 'Iris'"),
        ("name", "iris\n", "name 'iris\\n'"),
        ("name", "a" * 41, "allowed are 1-40"),
        ("version", "latest", "a version never moves"),
        ("version", "../1", "version '../1'"),
        ("format", "pickle", "$.format"),
        ("frameworks", {}, "'scikit-learn' is missing"),
        ("frameworks", {"scikit-learn": "new", "skops": "0.16.0"}, "'new' is not a version"),
        ("inputs", [], "inputs is empty"),
        ("inputs", [{"name": "x", "datatype": "BF16", "shape": [1]}], "$.inputs[0].datatype"),
        ("inputs", [{"name": "x", "datatype": "FP64", "shape": [-2]}], "each is >= 0, or -1"),
        ("outputs", [{"name": "y", "datatype": "FP64", "shape": []}] * 2, "must be given and differ"),
        ("files", {}, "one *.skops file, not 0"),
        ("created", "yesterday", "created 'yesterday'"),
        ("created_by", "", "created_by is empty"),
        ("signature", "x", "unknown field `signature`"),
    ],
)
def test_a_manifest_error_names_what_is_wrong(
    content: dict[str, Any], key: str, value: object, message: str
) -> None:
    with pytest.raises(ManifestError) as error:
        load({**content, key: value})
    assert message in str(error.value)


def test_every_problem_of_a_manifest_is_reported_at_once(content: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as error:
        load({**content, "name": "I", "version": "latest", "created": "", "files": {}})
    assert len(str(error.value).split("; ")) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"schema": 1}'])
def test_what_is_no_manifest_is_refused_with_a_manifest_error(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^manifest\.json: "):
        manifest.load(content)


def test_a_missing_field_is_named(content: dict[str, Any]) -> None:
    del content["sample"]
    with pytest.raises(ManifestError, match="missing required field `sample`"):
        load(content)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/model.skops",
        "../model.skops",
        "a/../model.skops",
        "./model.skops",
        "a//model.skops",
        "a\\b.skops",
        "model.skops/",
        "",
        ".hidden/model.skops",
        "a\nb.skops",
        "a/" * 200 + "model.skops",
        "manifest.json",
    ],
)
def test_a_file_path_never_leaves_the_version_directory(content: dict[str, Any], path: str) -> None:
    (file,) = content["files"].values()
    with pytest.raises(ManifestError, match=r"is not a plain relative path|is the manifest itself"):
        load({**content, "files": {path: file}})


def _swap_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def _link_to_a_copy(file: Path) -> None:
    file.rename(file.with_suffix(".copy"))
    file.symlink_to(file.with_suffix(".copy"))


def _link_its_folder(file: Path) -> None:
    file.parent.rename(file.parent.parent / "elsewhere")
    file.parent.symlink_to(file.parent.parent / "elsewhere")


def _make_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def _shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_swap_byte, "sha256 is"),
        (_append, "more bytes, the manifest says 23395"),
        (_shorten, "23394 bytes, the manifest says 23395"),
        (Path.unlink, "No such file"),
        (lambda file: shutil.rmtree(file.parent), "No such file"),
        (_link_to_a_copy, "cannot be opened as a plain file"),
        (_link_its_folder, "cannot be opened as a plain file"),
        (_make_pipe, "not a regular file"),
        (_make_folder, "not a regular file"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused(
    iris_copy: Path, spoil: Callable[[Path], None], message: str
) -> None:
    described = manifest.load(manifest.read_manifest(iris_copy))
    spoil(iris_copy / described.model_path)
    for check in (manifest.verify_files, manifest.read_verified):
        with pytest.raises(ManifestError) as error:
            check(iris_copy, described)
        assert described.model_path in str(error.value)
        assert message in str(error.value)


def test_files_that_the_manifest_does_not_name_are_ignored(iris_copy: Path) -> None:
    (iris_copy / "0123456789ab").mkdir()
    described = manifest.load(manifest.read_manifest(iris_copy))
    manifest.verify_files(iris_copy, described)
    assert manifest.read_verified(iris_copy, described) == (iris_copy / described.model_path).read_bytes()


def test_a_linked_manifest_is_refused(iris: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to(iris / "manifest.json")
    with pytest.raises(ManifestError, match="cannot be opened as a plain file"):
        manifest.read_manifest(tmp_path)
