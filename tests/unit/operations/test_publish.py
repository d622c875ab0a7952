"""From a file to a version: what it is called, what is taken, what is refused."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from infra import config
from operations.errors import OperationError
from operations.model_store import ModelStore
from operations.publish import next_version, publish, seed
from serving_image import manifest as schema
from serving_image.describe import DescribeError

MakeArtifact = Callable[..., Path]

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/models/iris/1"
EXAMPLE_SHA256 = schema.digest((EXAMPLE / schema.FILE_NAME).read_bytes())


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ((), "1"),
        (("1",), "2"),
        (("9", "10"), "11"),
        (("3", "2026.1", "rc4", "-".join("5")), "6"),
        (("rc1", "1.5"), "1"),
    ],
)
def test_the_next_version_is_one_more_than_the_highest_whole_number(
    published: tuple[str, ...], expected: str, store: ModelStore, make_artifact: MakeArtifact
) -> None:
    for version in published:
        store.publish(make_artifact(version=version))
    store.publish(make_artifact(name="iris-large", version="70"))  # another model's numbers do not count
    assert next_version(store, "iris") == expected


def test_a_version_whose_publishing_was_interrupted_is_still_free(
    store: ModelStore, store_directory: Path
) -> None:
    (store_directory / "models/iris/1/abc").mkdir(parents=True)
    (store_directory / "models/iris/1/abc/model.onnx").write_text("")
    assert next_version(store, "iris") == "1"


def test_a_corrupt_version_is_not_given_out_again_and_stands_in_nobodys_way(
    store: ModelStore, store_directory: Path
) -> None:
    (store_directory / "models/iris/7").mkdir(parents=True)
    (store_directory / "models/iris/7/manifest.json").write_text("{")
    assert next_version(store, "iris") == "8"


def test_a_model_file_is_published_under_its_name_and_the_next_version(
    store: ModelStore, tmp_path: Path
) -> None:
    model = tmp_path / "some file.skops"
    shutil.copy(next(EXAMPLE.glob("*/model.skops")), model)
    first = publish(store, model, name="iris", version=None, trust_pickle=False)
    second = publish(store, model, name="iris", version=None, trust_pickle=False)
    named = publish(store, model, name="iris", version="rc1", trust_pickle=False)
    assert [it.reference for it in (first, second, named)] == ["iris@1", "iris@2", "iris@rc1"]
    assert [it.sha256 for it in store.versions()] == [it.sha256 for it in (first, second, named)]
    assert first.manifest.created_by == getpass.getuser()
    store.pull("iris", "1", tmp_path / "pulled")
    assert (tmp_path / "pulled" / first.manifest.model_path).read_bytes() == model.read_bytes()


def test_a_user_without_a_name_publishes_as_the_uid(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    model = next(EXAMPLE.glob("*/model.skops"))
    published = publish(store, model, name="iris", version="1", trust_pickle=False)
    assert published.manifest.created_by == f"uid {os.getuid()}"


def test_a_version_directory_is_published_as_its_manifest_says(store: ModelStore) -> None:
    published = publish(store, EXAMPLE, name=None, version=None, trust_pickle=False)
    assert (published.reference, published.sha256) == ("iris@1", EXAMPLE_SHA256)


@pytest.mark.parametrize(("name", "version"), [("iris", None), (None, "1"), ("iris", "1")])
def test_a_version_directory_takes_no_other_name_or_version(
    name: str | None, version: str | None, store: ModelStore
) -> None:
    with pytest.raises(
        OperationError, match=f"^{EXAMPLE}: its manifest names .*; leave out --name and --version$"
    ):
        publish(store, EXAMPLE, name=name, version=version, trust_pickle=False)
    assert store.versions() == []


def test_a_file_needs_a_name(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(b"")
    with pytest.raises(OperationError, match=r"model\.skops: say what the model is called: --name NAME$"):
        publish(store, tmp_path / "model.skops", name=None, version="1", trust_pickle=False)


def test_a_path_that_is_not_there_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"/nowhere: no such file or directory$"):
        publish(store, tmp_path / "nowhere", name="iris", version=None, trust_pickle=False)


@pytest.mark.parametrize(
    ("file", "name", "version", "message"),
    [
        ("model.txt", "iris", "1", r"the suffix is not one of \.skops, "),
        ("model.skops", "iris", "1", r"^model\.skops: "),
        ("model.onnx", "iris", "1", r"^model\.onnx: "),
        ("model.joblib", "iris", "1", r"^model\.joblib: "),
    ],
)
def test_a_file_that_is_no_model_is_refused_and_nothing_is_published(
    file: str, name: str, version: str, message: str, store: ModelStore, store_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"not a model")
    with pytest.raises(DescribeError, match=message):
        publish(store, tmp_path / file, name=name, version=version, trust_pickle=False)
    assert list(store_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "version"), [("Iris", None), ("../iris", None), ("iris", "latest"), ("iris", "a/b")]
)
def test_a_name_that_no_reference_could_have_is_refused(
    name: str, version: str | None, store: ModelStore, store_directory: Path
) -> None:
    model = next(EXAMPLE.glob("*/model.skops"))
    with pytest.raises((DescribeError, OperationError), match=r"allowed are|a version never moves"):
        publish(store, model, name=name, version=version, trust_pickle=False)
    assert list(store_directory.iterdir()) == []


def test_the_stack_files_model_is_the_committed_example() -> None:
    content = yaml.safe_load((ROOT / "stacks/Pulumi.local.yaml").read_text())["config"]
    model = config.parse(config.own_values(content)).services["iris"].model
    assert model == config.Model(name="iris", version="1", sha256=EXAMPLE_SHA256)


def test_an_example_is_seeded_once(store: ModelStore) -> None:
    arguments = {"name": "iris", "version": "1", "sha256": EXAMPLE_SHA256}
    assert seed(store, ROOT / "examples", **arguments)
    assert store.version("iris", "1").sha256 == EXAMPLE_SHA256
    assert not seed(store, ROOT / "examples", **arguments)


@pytest.mark.parametrize(
    ("name", "version", "sha256"),
    [
        ("iris", "1", 64 * "0"),
        ("iris", "1", EXAMPLE_SHA256.upper()),
        ("iris", "2", EXAMPLE_SHA256),
        ("wine", "1", EXAMPLE_SHA256),
    ],
)
def test_an_example_is_seeded_only_for_its_exact_digest(
    name: str, version: str, sha256: str, store: ModelStore
) -> None:
    assert not seed(store, ROOT / "examples", name=name, version=version, sha256=sha256)
    assert store.versions() == []


def test_a_published_version_is_not_replaced_by_an_example(
    store: ModelStore, make_artifact: MakeArtifact
) -> None:
    mine = store.publish(make_artifact(name="iris", version="1"))
    assert not seed(store, ROOT / "examples", name="iris", version="1", sha256=EXAMPLE_SHA256)
    assert store.version("iris", "1") == mine


def test_a_tampered_example_is_not_seeded(store: ModelStore, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/models", tmp_path / "models")
    next((tmp_path / "models/iris/1").glob("*/model.skops")).write_bytes(b"tampered")
    with pytest.raises(OperationError, match="the manifest says"):
        seed(store, tmp_path, name="iris", version="1", sha256=EXAMPLE_SHA256)
    assert store.versions() == []
