"""The model store's promises: whole or invisible, never changed, verified on the way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from operations.errors import OperationError
from operations.model_store import ModelStore, Version, parse_reference
from serving_image import manifest as schema

MakeArtifact = Callable[..., Path]


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def references(store: ModelStore) -> list[str]:
    return [version.reference for version in store.versions()]


def test_a_published_version_is_found_by_the_digest_of_its_manifest(
    store: ModelStore, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()
    published = store.publish(artifact)
    assert published.sha256 == schema.digest((artifact / schema.FILE_NAME).read_bytes())
    assert store.find("iris", "1") == published == store.version("iris", "1")


def test_the_store_holds_the_artifact_byte_for_byte_in_its_layout(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()
    store.publish(artifact)
    assert tree(store_directory) == {
        f"models/iris/1/{path}": content for path, content in tree(artifact).items()
    }


def test_versions_are_listed_by_name_and_then_by_date(store: ModelStore, make_artifact: MakeArtifact) -> None:
    for name, version, created in (
        ("wine", "1", "2026-01-01T00:00:00Z"),
        ("iris", "10", "2026-01-03T00:00:00Z"),
        ("iris", "9", "2026-01-02T00:00:00Z"),
    ):
        store.publish(make_artifact(name, version, created=created))
    assert references(store) == ["iris@9", "iris@10", "wine@1"]


def test_an_empty_store_has_no_versions(store: ModelStore) -> None:
    assert store.versions() == []
    assert store.find("iris", "1") is None


def test_files_that_are_no_manifest_of_a_version_are_not_listed(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    store.publish(make_artifact())
    for path in (
        "models/manifest.json",
        "models/iris/manifest.json",
        "models/iris/1/x/manifest.json",
        "README",
    ):
        (store_directory / path).parent.mkdir(exist_ok=True)
        (store_directory / path).write_text("{}")
    assert references(store) == ["iris@1"]


def test_a_version_is_invisible_until_its_manifest_is_there(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()
    home = store_directory / "models/iris/1"
    shutil.copytree(artifact, home, ignore=shutil.ignore_patterns(schema.FILE_NAME))
    assert store.find("iris", "1") is None
    assert store.versions() == []
    assert store.version_names("iris") == []
    shutil.copy(artifact / schema.FILE_NAME, home)
    assert references(store) == ["iris@1"]
    assert store.version_names("iris") == ["1"]


# Ends its own process, as hard as can be, at the moment the manifest would be written.
KILLED_PUBLISHER = """
import os, signal, sys
from pathlib import Path
import obstore
from operations.model_store import ModelStore
put = obstore.put
def dying_put(store, path, *arguments, **options):
    if path.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    put(store, path, *arguments, **options)
obstore.put = dying_put
ModelStore(sys.argv[1]).publish(Path(sys.argv[2]))
"""


def test_a_publisher_killed_before_the_manifest_leaves_nothing_visible_and_nothing_in_the_way(
    store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    artifact = make_artifact()
    killed = subprocess.run([sys.executable, "-c", KILLED_PUBLISHER, store.url, artifact], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert store.versions() == []
    store.publish(artifact)
    store.pull("iris", "1", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(artifact)


def test_other_content_may_follow_an_interrupted_publish(
    store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("obstore.put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.publish(make_artifact(content=b"first"))
    second = make_artifact(content=b"second")
    store.publish(second)
    store.pull("iris", "1", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(second)


def test_publishing_the_same_artifact_again_changes_nothing(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()
    first = store.publish(artifact)
    stamps = {path: path.stat().st_mtime_ns for path in store_directory.rglob("*")}
    assert store.publish(artifact) == first
    assert {path: path.stat().st_mtime_ns for path in store_directory.rglob("*")} == stamps


def test_other_content_under_a_published_version_is_refused(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    store.publish(make_artifact(content=b"first"))
    before = tree(store_directory)
    with pytest.raises(
        OperationError, match=r"^model iris@1: published already in .*other content.*--version$"
    ):
        store.publish(make_artifact(content=b"second"))
    assert tree(store_directory) == before


class _Rendezvous(ModelStore):
    """A publisher that, having seen that the version is free, waits for the others to have seen it too."""

    barrier: threading.Barrier

    def find(self, name: str, version: str) -> Version | None:
        found = super().find(name, version)
        if found is None:
            self.barrier.wait(timeout=10)
        return found


def publish_at_once(url: str, artifacts: list[Path]) -> list[Version | OperationError]:
    barrier = threading.Barrier(len(artifacts))

    def publish(artifact: Path) -> Version | OperationError:
        store = _Rendezvous(url)
        store.barrier = barrier
        try:
            return store.publish(artifact)
        except OperationError as error:
            return error

    with ThreadPoolExecutor(len(artifacts)) as pool:
        return list(pool.map(publish, artifacts))


def test_of_publishers_at_once_one_wins_and_the_others_say_so(
    store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    artifacts = [make_artifact(content=f"content {number}".encode()) for number in range(6)]
    results = publish_at_once(store.url, artifacts)
    (winner,) = (index for index, result in enumerate(results) if isinstance(result, Version))
    losers = [str(result) for result in results if isinstance(result, OperationError)]
    assert len(losers) == 5
    assert all("published already" in message and "other content" in message for message in losers)
    store.pull("iris", "1", tmp_path / "pulled")
    assert tree(tmp_path / "pulled") == tree(artifacts[winner])


def test_publishers_of_the_same_artifact_at_once_all_succeed(
    store: ModelStore, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()
    results = publish_at_once(store.url, 4 * [artifact])
    assert results == 4 * [store.version("iris", "1")]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.write_bytes(b"mOdel"), "sha256 is"),
        (lambda model: model.write_bytes(b"model and more"), "more bytes"),
        (lambda model: model.unlink(), "cannot be opened"),
        (lambda model: (model.parents[1] / schema.FILE_NAME).write_text("{"), "manifest.json:"),
        (lambda model: (model.parents[1] / schema.FILE_NAME).unlink(), "manifest.json: cannot be opened"),
        (lambda model: shutil.rmtree(model.parents[1]), "cannot be opened"),
    ],
)
def test_an_artifact_that_is_not_what_its_manifest_says_is_not_published(
    spoil: Callable[[Path], object],
    message: str,
    store: ModelStore,
    store_directory: Path,
    make_artifact: MakeArtifact,
) -> None:
    artifact = make_artifact()
    spoil(next(artifact.glob("*/model.onnx")))
    with pytest.raises(OperationError, match=f"^artifact {re.escape(str(artifact))}: .*{message}"):
        store.publish(artifact)
    assert tree(store_directory) == {}


def test_a_pulled_version_is_the_artifact(
    store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    artifact = make_artifact(content=os.urandom(1 << 20))
    published = store.publish(artifact)
    assert store.pull("iris", "1", tmp_path / "some/where/new") == published
    assert tree(tmp_path / "some/where/new") == tree(artifact)
    assert ModelStore((tmp_path / "another store").as_uri()).publish(tmp_path / "some/where/new") == published


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.write_bytes(b"mOdel"), "sha256 is"),
        (lambda model: model.write_bytes(b"model and more"), "more bytes"),
        (lambda model: model.unlink(), "not found"),
    ],
)
def test_a_pull_that_fails_leaves_nothing(
    spoil: Callable[[Path], object],
    message: str,
    store: ModelStore,
    store_directory: Path,
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    store.publish(make_artifact())
    spoil(next(store_directory.glob("models/iris/1/*/model.onnx")))
    with pytest.raises(OperationError, match=f"^model iris@1 from file:.*: refused: .*{message}[^\n]*$"):
        store.pull("iris", "1", tmp_path / "there" / "pulled")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_pull_does_not_write_into_what_is_there(
    store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    store.publish(make_artifact())
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(
        OperationError, match=r"^destination .*/mine: exists already; name another with --to$"
    ):
        store.pull("iris", "1", tmp_path / "mine")
    with pytest.raises(OperationError, match=r"^destination .*/mine/below: File exists$"):
        store.pull("iris", "1", tmp_path / "mine" / "below")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("operation", ["version", "pull"])
def test_a_version_that_is_not_published_is_refused_with_those_that_are(
    operation: str, store: ModelStore, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    def ask(name: str, version: str) -> None:
        if operation == "version":
            store.version(name, version)
        else:
            store.pull(name, version, tmp_path / "pulled")

    for version in ("2", "1"):
        store.publish(make_artifact(version=version))
    with pytest.raises(
        OperationError, match=r"^model iris@3: not in file:.*; published are 1, 2\. Publish it: "
    ):
        ask("iris", "3")
    # Not a prefix: "iri" is another model.
    with pytest.raises(OperationError, match=r"^model iri@1: not in .*; no version of 'iri' is published\. "):
        ask("iri", "1")
    assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("iris", "expected NAME@VERSION, such as iris@1"),
        ("", "expected NAME@VERSION"),
        ("@1", "name ''"),
        ("iris@", "version ''"),
        ("iris@latest", "a version never moves"),
        ("Iris@1", "name 'Iris'"),
        ("../../etc@1", "name '../../etc'"),
        ("iris@..", "version '..'"),
        ("iris@1/2", "version '1/2'"),
        ("iris@1@2", "version '1@2'"),
    ],
)
def test_a_reference_that_names_no_version_is_refused(reference: str, message: str) -> None:
    with pytest.raises(OperationError, match=f"^model {re.escape(repr(reference))}: .*{re.escape(message)}"):
        parse_reference(reference)


def test_a_reference_is_a_name_and_a_version() -> None:
    assert parse_reference("flask-iris@2026.1_rc-1") == ("flask-iris", "2026.1_rc-1")


@pytest.mark.parametrize(
    "url",
    ["models", "", "/srv/models", "ftp://host/models", "s3://", "file://models", "file:", "file:///"[:7]],
)
def test_an_address_of_no_store_is_refused_with_what_is_allowed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OperationError, match=r"^model store '.*': .*; allowed are file:///path, s3://, gs://, az://"
    ):
        ModelStore(url)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(OperationError, match=f"^model store '{path.as_uri()}': .*{path}$"):
            ModelStore(path.as_uri())


def test_an_unreadable_store_is_one_error_in_every_operation(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    """Permissions do not bind root, so what is unreadable here is a store whose folders are files."""
    store.publish(make_artifact())
    shutil.rmtree(store_directory / "models/iris")
    (store_directory / "models/iris").write_text("")
    operations: list[Callable[[], object]] = [
        lambda: store.find("iris", "1"),
        lambda: store.version("iris", "1"),
        lambda: store.publish(make_artifact(version="2")),
        lambda: store.pull("iris", "1", tmp_path / "pulled"),
    ]
    for operation in operations:
        with pytest.raises(OperationError, match=f"^model store {store.url}: [^\n]*Not a directory[^\n]*$"):
            operation()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', "\x00"])
def test_a_corrupt_manifest_is_named_by_every_operation_that_meets_it(
    content: str, store: ModelStore, store_directory: Path, make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    store.publish(make_artifact(version="1"))
    store.publish(make_artifact(version="2"))
    (store_directory / "models/iris/2/manifest.json").write_text(content)
    operations: list[Callable[[], object]] = [
        store.versions,
        lambda: store.find("iris", "2"),
        lambda: store.pull("iris", "2", tmp_path / "pulled"),
        lambda: store.publish(make_artifact(version="2", content=b"other")),
    ]
    for operation in operations:
        with pytest.raises(OperationError, match=r"^model iris@2 in file:.*: manifest\.json: "):
            operation()
    assert store.version("iris", "1").reference == "iris@1"
    assert sorted(store.version_names("iris")) == ["1", "2"]
    assert not (tmp_path / "pulled").exists()


def test_a_version_that_was_copied_by_hand_is_not_taken_for_another(
    store: ModelStore, store_directory: Path, make_artifact: MakeArtifact
) -> None:
    store.publish(make_artifact())
    shutil.copytree(store_directory / "models/iris/1", store_directory / "models/iris/2")
    with pytest.raises(OperationError, match=r"^model iris@2 in file:.*: .* iris@1$"):
        store.find("iris", "2")


def test_the_directory_of_a_store_may_have_any_name(tmp_path: Path, make_artifact: MakeArtifact) -> None:
    directory = tmp_path / "a store, 100% ünusual"
    ModelStore(directory.as_uri()).publish(make_artifact())
    assert (directory / "models/iris/1/manifest.json").is_file()


def test_a_published_version_is_readable_by_the_pods_whatever_the_publishers_umask(
    tmp_path: Path, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact("iris", "1")
    before = os.umask(0o077)
    try:
        ModelStore((tmp_path / "store").as_uri()).publish(artifact)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    version = tmp_path / "store" / "models" / "iris" / "1"
    for path in (version, *version.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
