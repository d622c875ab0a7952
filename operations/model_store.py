"""The model store: immutable versions of models in a directory or a bucket.

Owns the layout `models/<name>/<version>/` and the order of writing that makes a version appear whole or not at
all. Does not know how a manifest is made.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from operations.errors import OperationError
from serving_image import manifest as schema
from serving_image.manifest import Manifest, ManifestError

_ROOT = "models"
_ALLOWED = "file:///path, s3://, gs://, az://, https://"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published version: its manifest and the digest by which stack files name it."""

    manifest: Manifest
    sha256: str

    @property
    def reference(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"


def parse_reference(text: str) -> tuple[str, str]:
    """`iris@1` -> name and version. Raises OperationError."""
    name, separator, version = text.partition("@")
    if not separator:
        raise OperationError(f"model {text!r}: expected NAME@VERSION, such as iris@1")
    if problem := schema.name_problem(name) or schema.version_problem(version):
        raise OperationError(f"model {text!r}: {problem}")
    return name, version


class ModelStore:
    """A store by its URL: `file:///path`, `s3://`, `gs://`, `az://` or `https://`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store = _open(self.url)

    def versions(self) -> list[Version]:
        """Every published version, by name and then by date. Raises OperationError."""
        found = []
        for path in self._manifest_paths():
            _, name, version, _ = path.split("/")
            found.append(self.version(name, version))
        return sorted(found, key=lambda it: (it.manifest.name, it.manifest.created, it.manifest.version))

    def version_names(self, name: str) -> list[str]:
        """The versions of a model, unread: a corrupt one is among them. Raises OperationError."""
        return [path.split("/")[2] for path in self._manifest_paths(f"{_ROOT}/{name}")]

    def _manifest_paths(self, prefix: str = _ROOT) -> Iterator[str]:
        try:
            for page in obstore.list(self._store, prefix=prefix):
                for item in page:
                    path = item["path"]
                    if path.count("/") == 3 and path.endswith(f"/{schema.FILE_NAME}"):
                        yield path
        except (BaseError, OSError) as error:
            raise self._failure(error) from error

    def find(self, name: str, version: str) -> Version | None:
        """The version, or None when it is not published.

        Raises OperationError when the store does not answer or what it holds is not that version.
        """
        path = f"{_ROOT}/{name}/{version}/{schema.FILE_NAME}"
        try:
            content = bytes(obstore.get(self._store, path).bytes())
            found = Version(manifest=schema.load(content), sha256=schema.digest(content))
        except (FileNotFoundError, NotFoundError):
            return None
        except ManifestError as error:
            raise OperationError(f"model {name}@{version} in {self.url}: {error}") from None
        except (BaseError, OSError) as error:
            raise self._failure(error) from error

        if found.reference != f"{name}@{version}":
            raise OperationError(
                f"model {name}@{version} in {self.url}: holds the manifest of {found.reference}"
            )
        return found

    def version(self, name: str, version: str) -> Version:
        """The version. Raises OperationError, naming the versions there are, when it is not published."""
        if found := self.find(name, version):
            return found
        others = self.version_names(name)
        known = (
            f"published are {', '.join(sorted(others))}" if others else f"no version of {name!r} is published"
        )
        raise OperationError(
            f"model {name}@{version}: not in {self.url}; {known}. Publish it:"
            f" ./maas publish FILE --name {name} --version {version}"
        )

    def publish(self, directory: Path) -> Version:
        """Publish the artifact in `directory`, a version directory with its manifest.

        Files are written first and the manifest last, only if there is none: a version is visible whole or
        not at all, and of two publishers one wins. Publishing the very same artifact again changes nothing.
        Raises OperationError.
        """
        try:
            content = schema.read_manifest(directory)
            artifact = Version(manifest=schema.load(content), sha256=schema.digest(content))
            schema.verify_files(directory, artifact.manifest)
        except ManifestError as error:
            raise OperationError(f"artifact {directory}: {error}") from None
        if self._is_published(artifact):
            return artifact
        home = f"{_ROOT}/{artifact.manifest.name}/{artifact.manifest.version}"
        try:
            with _readable_by_pods():
                for path in artifact.manifest.files:
                    # Paths carry their content's digest, so writing one again, or by two at once, is harmless.
                    obstore.put(self._store, f"{home}/{path}", directory / path)
                obstore.put(self._store, f"{home}/{schema.FILE_NAME}", content, mode="create")
        except AlreadyExistsError:
            if not self._is_published(artifact):
                raise self._taken(artifact) from None
        except (BaseError, OSError) as error:
            raise self._failure(error) from error
        return artifact

    def _is_published(self, artifact: Version) -> bool:
        existing = self.find(artifact.manifest.name, artifact.manifest.version)
        if existing is None:
            return False
        if existing.sha256 != artifact.sha256:
            raise self._taken(artifact)
        return True

    def _taken(self, artifact: Version) -> OperationError:
        return OperationError(
            f"model {artifact.reference}: published already in {self.url}, with other content; a version"
            " never changes, so publish under another: --version"
        )

    def pull(self, name: str, version: str, destination: Path) -> Version:
        """Fetch a version into `destination`, verified; nothing is left there when it fails.

        Raises OperationError.
        """
        found = self.version(name, version)
        if destination.exists():
            raise OperationError(f"destination {destination}: exists already; name another with --to")
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".pull-", dir=destination.parent) as directory:
                partial = Path(directory, "artifact")
                for path in (schema.FILE_NAME, *found.manifest.files):
                    target = partial / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        for chunk in obstore.get(self._store, f"{_ROOT}/{name}/{version}/{path}"):
                            file.write(chunk)
                schema.verify_files(partial, found.manifest)
                partial.rename(destination)
        except (ManifestError, FileNotFoundError, NotFoundError) as error:
            raise OperationError(
                f"model {name}@{version} from {self.url}: refused: {_first_line(error)}"
            ) from None
        except BaseError as error:
            raise self._failure(error) from error
        except OSError as error:
            raise OperationError(f"destination {destination}: {error.strerror}") from None
        return found

    def _failure(self, error: BaseError | OSError) -> OperationError:
        return OperationError(f"model store {self.url}: {_first_line(error)}")


@contextmanager
def _readable_by_pods() -> Iterator[None]:
    """A model server runs as another user than the publisher, whose umask may hide what it writes."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _open(url: str) -> ObjectStore:
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _open_directory(url)
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise OperationError(f"model store {url!r}: {_first_line(error)}; allowed are {_ALLOWED}") from None


def _open_directory(url: str) -> ObjectStore:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute():
        raise OperationError(f"model store {url!r}: names no absolute path; allowed are {_ALLOWED}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationError(f"model store {url!r}: {error.strerror}: {error.filename}") from None
    return LocalStore(prefix=path)


def _first_line(error: Exception) -> str:
    """What is wrong, without the internals that obstore prints below it."""
    return str(error).strip().partition("\n")[0]
