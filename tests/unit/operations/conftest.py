"""Artifacts that need no framework: the store does not look inside a model file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from operations.model_store import ModelStore
from serving_image import manifest as schema
from serving_image.manifest import Datatype, File, Format, Manifest, Sample, Tensor

MakeArtifact = Callable[..., Path]


@pytest.fixture
def make_artifact(tmp_path: Path) -> MakeArtifact:
    """A version directory with its manifest; `content` is the model file's."""

    def make(
        name: str = "iris",
        version: str = "1",
        content: bytes = b"model",
        created: str = "2026-01-31T12:00:00Z",
    ) -> Path:
        sha256 = hashlib.sha256(content).hexdigest()
        path = f"{sha256[:12]}/model.onnx"
        tensor = Tensor(name="output", datatype=Datatype.FP32, shape=(-1,))
        request = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1], "data": [1.0]}]}
        response = {"outputs": [{"name": "output", "datatype": "FP32", "shape": [1], "data": [0.5]}]}
        manifest = Manifest(
            schema=schema.SCHEMA,
            name=name,
            version=version,
            format=Format.ONNX,
            frameworks={},
            inputs=(Tensor(name="input", datatype=Datatype.FP32, shape=(-1,)),),
            outputs=(tensor,),
            sample=Sample(request=request, response=response),
            files={path: File(sha256=sha256, size=len(content))},
            created=created,
            created_by="a test",
        )
        directory = tmp_path / "artifacts" / f"{name}-{version}-{sha256[:12]}"
        (directory / path).parent.mkdir(parents=True)
        (directory / path).write_bytes(content)
        (directory / schema.FILE_NAME).write_bytes(schema.dump(manifest))
        return directory

    return make


@pytest.fixture
def store_directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(store_directory: Path) -> ModelStore:
    return ModelStore(store_directory.as_uri())
