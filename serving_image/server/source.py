"""Where models come from: a directory, read in place, or a URL of an object store, downloaded first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from serving_image.manifest import FILE_NAME, MAX_BYTES, ManifestError
from serving_image.server.model import checked_manifest
from serving_image.server.runtimes import ModelRefusedError
from serving_image.server.settings import Settings

_CHUNK_BYTES = 8 * 1024 * 1024


class StoreError(RuntimeError):
    """The store does not answer, or holds no model (yet): worth another try, unlike a refused model."""


@contextmanager
def version_directories(settings: Settings) -> Iterator[list[Path]]:
    """The version directories to serve; what was downloaded is gone afterwards.

    Raises StoreError and ModelRefusedError.
    """
    if not settings.is_remote:
        yield _local_directories(Path(settings.model_uri))
        return
    with TemporaryDirectory(prefix="model-") as directory:
        try:
            _download(settings, Path(directory))
        except (BaseError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StoreError(f"MODEL_URI {settings.model_uri} cannot be read: {reason}") from error
        except ManifestError as error:
            raise ModelRefusedError(f"model in {settings.model_uri} refused: {error}") from error
        yield [Path(directory)]


def _local_directories(directory: Path) -> list[Path]:
    try:
        if (directory / FILE_NAME).exists():
            return [directory]
        found = [inner for inner in sorted(directory.iterdir()) if (inner / FILE_NAME).exists()]
    except OSError as error:
        raise StoreError(f"MODEL_URI {directory} cannot be read: {error.strerror}") from error
    if not found:
        raise StoreError(f"MODEL_URI {directory} holds no {FILE_NAME}, and no directory that does")
    return found


def _download(settings: Settings, directory: Path) -> None:
    """Fetch the manifest, check it, then fetch what it names: nothing else, and no byte more than it says.

    Whether these are the right bytes is checked when the directory is loaded.
    """
    # object_store refuses http:// unless told, and http:// was asked for.
    plain = settings.model_uri.startswith("http://")
    store = from_url(settings.model_uri, client_options={"allow_http": True} if plain else None)
    _fetch(store, FILE_NAME, directory / FILE_NAME, MAX_BYTES)
    manifest, _ = checked_manifest((directory / FILE_NAME).read_bytes(), settings)
    for path, file in manifest.files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        _fetch(store, path, directory / path, file.size)


def _fetch(store: ObjectStore, path: str, target: Path, max_bytes: int) -> None:
    size = 0
    with target.open("wb") as stream:
        for chunk in obstore.get(store, path).stream(min_chunk_size=_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise ManifestError(f"{path}: more bytes in the store than the {max_bytes} allowed")
            stream.write(chunk)
