"""From a model file to an artifact: the directory that a model store takes and a teammate can be handed."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from operations.errors import OperationError
from operations.model_store import ModelStore, Version
from serving_image import manifest as schema


def next_version(store: ModelStore, name: str) -> str:
    """One more than the highest whole number among the published versions."""
    numbers = [int(version) for version in store.version_names(name) if version.isdecimal()]
    return str(max(numbers, default=0) + 1)


def publish(
    store: ModelStore, path: Path, *, name: str | None, version: str | None, trust_pickle: bool
) -> Version:
    """Publish a model file, or a version directory that has its manifest already. Raises OperationError."""
    if not path.exists():
        raise OperationError(f"{path}: no such file or directory")
    if path.is_dir():
        if name or version:
            raise OperationError(
                f"{path}: its manifest names the model and the version; leave out --name and --version"
            )
        return store.publish(path)
    if name is None:
        raise OperationError(f"{path}: say what the model is called: --name NAME")
    if problem := schema.name_problem(name) or (version and schema.version_problem(version)):
        raise OperationError(problem)
    with artifact(
        path, name=name, version=version or next_version(store, name), trust_pickle=trust_pickle
    ) as directory:
        return store.publish(directory)


@contextmanager
def artifact(path: Path, *, name: str, version: str, trust_pickle: bool) -> Iterator[Path]:
    """A temporary version directory for a model file: to describe it, the model is loaded and asked a sample."""
    # Frameworks are imported here: only this needs them, and they are heavy.
    from serving_image.describe import describe

    manifest, files = describe(path, name, version, _user(), trust_pickle=trust_pickle)
    with tempfile.TemporaryDirectory(prefix="artifact-") as directory:
        for relative, content in files.items():
            target = Path(directory, relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        Path(directory, schema.FILE_NAME).write_bytes(schema.dump(manifest))
        yield Path(directory)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid has no name
        return f"uid {os.getuid()}"


def seed(store: ModelStore, examples: Path, *, name: str, version: str, sha256: str) -> bool:
    """Publish the example that has this very digest, if there is one. True when it was published now."""
    directory = examples / "models" / name / version
    manifest = directory / schema.FILE_NAME
    if not manifest.is_file() or schema.digest(manifest.read_bytes()) != sha256:
        return False
    if store.find(name, version) is not None:
        return False
    store.publish(directory)
    return True
