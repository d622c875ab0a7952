"""The manifest of a published model: its schema, its digest, and the check that files are the ones it names.

Owns what a valid artifact is, for the publisher and for the server alike. Does not know where artifacts are
stored, nor any machine learning framework.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

FILE_NAME = "manifest.json"
MAX_BYTES = 16 * 1024 * 1024
SCHEMA = 1

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# No "..", no leading dot, no backslash, no absolute path and no control character can match.
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CREATED = "%Y-%m-%dT%H:%M:%SZ"
_CHUNK = 1024 * 1024


class ManifestError(ValueError):
    """A manifest, or a file that it names, is not what it must be. The message lists everything found."""


class Format(StrEnum):
    """How a model file is written; the runtime that can open it follows from this."""

    SKLEARN_SKOPS = "sklearn-skops"
    SKLEARN_JOBLIB = "sklearn-joblib"
    ONNX = "onnx"

    @property
    def suffix(self) -> str:
        """Of the one file in an artifact that is the model itself."""
        return {"sklearn-skops": ".skops", "sklearn-joblib": ".joblib", "onnx": ".onnx"}[self.value]

    @property
    def frameworks(self) -> tuple[str, ...]:
        """Distributions whose major.minor must be the same where the model is made and where it is served.

        An ONNX file names its own opset, so it pins none.
        """
        if self is Format.ONNX:
            return ()
        return ("scikit-learn", "skops") if self is Format.SKLEARN_SKOPS else ("scikit-learn",)


class Datatype(StrEnum):
    """Tensor element types of the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a model; -1 in the shape is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file must be: lower-case hex sha256, and its size in bytes."""

    sha256: str
    size: int


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A V2 infer request and the response that the model gave where it was made."""

    request: dict[str, Any]
    response: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known about one version of a model. `files` maps paths relative to the version's directory.

    A new field means a new `schema`, because an old server must refuse what it cannot check.
    """

    schema: int
    name: str
    version: str
    format: Format
    frameworks: dict[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sample: Sample
    files: dict[str, File]
    created: str
    created_by: str

    @property
    def model_path(self) -> str:
        """The path of the one file that a runtime opens."""
        return next(path for path in self.files if path.endswith(self.format.suffix))


def digest(manifest_bytes: bytes) -> str:
    """The model digest ("sha256" in stack files): it covers the manifest, which covers every file."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def load(manifest_bytes: bytes) -> Manifest:
    """Parse and check a manifest. Raises ManifestError."""
    if len(manifest_bytes) > MAX_BYTES:
        raise ManifestError(f"{FILE_NAME}: {len(manifest_bytes)} bytes; at most {MAX_BYTES} are allowed")
    try:
        manifest = msgspec.json.decode(manifest_bytes, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManifestError(f"{FILE_NAME}: {error}") from None
    if problems := tuple(_problems(manifest)):
        raise ManifestError(f"{FILE_NAME}: " + "; ".join(problems))
    return manifest


def dump(manifest: Manifest) -> bytes:
    """The bytes to publish; `load` accepts them."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    load(encoded)
    return encoded


def name_problem(name: str) -> str | None:
    """What is wrong with a model name, or None."""
    if NAME.fullmatch(name):
        return None
    return f"name {name!r}: allowed are 1-40 of a-z, 0-9 and '-', first a letter, last no '-'"


def version_problem(version: str) -> str | None:
    """What is wrong with a model version, or None."""
    if version == "latest":
        return "version 'latest': a version never moves, so give it a name of its own"
    if VERSION.fullmatch(version):
        return None
    return f"version {version!r}: allowed are 1-63 of A-Z, a-z, 0-9, '.', '_', '-', first a letter or digit"


def path_problem(path: str) -> str | None:
    """What is wrong with a file path in a manifest, or None."""
    if path == FILE_NAME:
        return f"files: {path!r} is the manifest itself"
    if len(path) <= 255 and _PATH.fullmatch(path):
        return None
    return f"files: {path!r} is not a plain relative path (no '..', no '\\', no leading '/' or '.')"


def _problems(manifest: Manifest) -> Iterator[str]:
    if manifest.schema != SCHEMA:
        yield f"schema {manifest.schema}: this release reads schema {SCHEMA}"
    yield from filter(None, (name_problem(manifest.name), version_problem(manifest.version)))
    yield from _framework_problems(manifest.format, manifest.frameworks)
    yield from _tensor_problems("inputs", manifest.inputs)
    yield from _tensor_problems("outputs", manifest.outputs)
    yield from _file_problems(manifest.format, manifest.files)
    try:
        datetime.strptime(manifest.created, _CREATED)
    except ValueError:
        yield f"created {manifest.created!r}: expected UTC such as 2026-01-31T12:00:00Z"
    if not manifest.created_by:
        yield "created_by is empty"


def _framework_problems(model_format: Format, frameworks: Mapping[str, str]) -> Iterator[str]:
    for framework in model_format.frameworks:
        if framework not in frameworks:
            yield f"frameworks: {framework!r} is missing, format {model_format.value} needs it"
    for framework, version in frameworks.items():
        if not re.match(r"\d+\.\d+", version):
            yield f"frameworks: {framework} {version!r} is not a version such as 1.9.1"


def _tensor_problems(where: str, tensors: Sequence[Tensor]) -> Iterator[str]:
    if not tensors:
        yield f"{where} is empty"
    names = [tensor.name for tensor in tensors]
    if "" in names or len(set(names)) != len(names):
        yield f"{where}: tensor names {names} must be given and differ"
    for tensor in tensors:
        if any(dimension < -1 for dimension in tensor.shape):
            yield f"{where}: shape {list(tensor.shape)} of {tensor.name!r}: each is >= 0, or -1 for any"


def _file_problems(model_format: Format, files: Mapping[str, File]) -> Iterator[str]:
    models = [path for path in files if path.endswith(model_format.suffix)]
    if len(models) != 1:
        yield f"files: format {model_format.value} needs one *{model_format.suffix} file, not {len(models)}"
    for path, file in files.items():
        if problem := path_problem(path):
            yield problem
        if not _SHA256.fullmatch(file.sha256):
            yield f"files: sha256 {file.sha256!r} of {path!r} is not 64 lower-case hex digits"
        if file.size < 0:
            yield f"files: size {file.size} of {path!r} is negative"


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check size and sha256 of every file of an artifact, in bounded memory. Raises ManifestError."""
    problems = []
    for path, file in manifest.files.items():
        try:
            with _open_regular(directory, path) as stream:
                _check(stream, path, file)
        except ManifestError as error:
            problems.append(str(error))
    if problems:
        raise ManifestError("; ".join(problems))


def read_verified(directory: Path, manifest: Manifest) -> bytes:
    """Verify every file and return the model file: the very bytes that were hashed.

    A file that is swapped after its check can therefore never reach a framework. Raises ManifestError.
    """
    content = b""
    for path, file in manifest.files.items():
        with _open_regular(directory, path) as stream:
            if path == manifest.model_path:
                # One byte more than promised is enough to refuse a file that is too long.
                content = stream.read(file.size + 1)
                _check(BytesIO(content), path, file)
            else:
                _check(stream, path, file)
    return content


def read_manifest(directory: Path) -> bytes:
    """The bytes of a version directory's manifest. Raises ManifestError."""
    with _open_regular(directory, FILE_NAME) as stream:
        return stream.read(MAX_BYTES + 1)


def _check(stream: BinaryIO, path: str, file: File) -> None:
    sha256, size = hashlib.sha256(), 0
    while size <= file.size and (chunk := stream.read(_CHUNK)):
        sha256.update(chunk)
        size += len(chunk)
    if size != file.size:
        found = size if size < file.size else "more"
        raise ManifestError(f"{path}: {found} bytes, the manifest says {file.size}")
    if sha256.hexdigest() != file.sha256:
        raise ManifestError(f"{path}: sha256 is {sha256.hexdigest()}, the manifest says {file.sha256}")


@contextmanager
def _open_regular(directory: Path, path: str) -> Iterator[BinaryIO]:
    """Open a file below `directory`, following no symbolic link and accepting no special file."""
    *folders, name = path.split("/")
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in folders:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(part, flags, dir_fd=folder)
                os.close(folder)
                folder = inner
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be opened as a plain file: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ManifestError(f"{path}: not a regular file")
    with os.fdopen(descriptor, "rb") as stream:
        yield stream
