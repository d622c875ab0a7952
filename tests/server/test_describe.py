from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from serving_image import manifest
from serving_image.describe import DescribeError, describe
from serving_image.manifest import Datatype, Format, Manifest

ROWS, LABELS = load_iris(return_X_y=True)


def saved(tmp_path: Path, estimator: Any, name: str = "model.skops") -> Path:
    file = tmp_path / name
    if file.suffix == ".skops":
        skops.io.dump(estimator, file)
    else:
        joblib.dump(estimator, file)
    return file


def signature(described: Manifest) -> list[tuple[str, str, tuple[int, ...]]]:
    tensors = (*described.inputs, *described.outputs)
    return [(tensor.name, tensor.datatype.value, tensor.shape) for tensor in tensors]


@pytest.mark.parametrize(
    ("estimator", "target", "expected"),
    [
        (
            LogisticRegression(max_iter=1000),
            LABELS,
            [("predict", "INT64", (-1,)), ("predict_proba", "FP64", (-1, 3))],
        ),
        (
            LogisticRegression(max_iter=1000),
            np.array(["a", "b", "c"])[LABELS],
            [("predict", "BYTES", (-1,)), ("predict_proba", "FP64", (-1, 3))],
        ),
        (LinearRegression(), LABELS * 1.0, [("predict", "FP64", (-1,))]),
        (LinearRegression(), ROWS, [("predict", "FP64", (-1, 4))]),
        (DecisionTreeClassifier(), np.column_stack([LABELS, LABELS]), [("predict", "INT64", (-1, 2))]),
    ],
)
def test_the_signature_of_a_scikit_learn_model_is_inferred(
    tmp_path: Path, estimator: Any, target: Any, expected: list[Any]
) -> None:
    described, _ = describe(saved(tmp_path, estimator.fit(ROWS, target)), "m", "1", "me")
    assert signature(described) == [("input", "FP64", (-1, 4)), *expected]
    assert described.sample.request["inputs"][0]["data"] == [0, 0, 0, 0]


def test_the_files_are_those_of_the_manifest_in_a_folder_named_by_their_content(tmp_path: Path) -> None:
    file = saved(tmp_path, LinearRegression().fit(ROWS, LABELS))
    described, files = describe(file, "m", "1", "me")
    ((path, content),) = files.items()
    assert content == file.read_bytes()
    assert described.files[path].sha256 == manifest.digest(content)
    assert path == f"{described.files[path].sha256[:12]}/model.skops"
    assert manifest.load(manifest.dump(described)) == described


def test_given_rows_become_the_sample(tmp_path: Path) -> None:
    file = saved(tmp_path, LogisticRegression(max_iter=1000).fit(ROWS, LABELS))
    described, _ = describe(file, "m", "1", "me", ROWS[:2])
    assert described.sample.request["inputs"][0]["data"] == ROWS[:2].ravel().tolist()
    assert described.sample.response["outputs"][0]["data"] == [0, 0]


def test_a_model_of_text_is_described_from_rows_of_text(tmp_path: Path) -> None:
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(["good", "bad"], [1, 0])
    file = saved(tmp_path, model, "model.joblib")
    with pytest.raises(DescribeError, match="give sample rows"):
        describe(file, "m", "1", "me", trust_pickle=True)
    described, _ = describe(file, "m", "1", "me", ["good", "bad"], trust_pickle=True)
    assert signature(described)[0] == ("input", "BYTES", (-1,))
    assert described.sample.response["outputs"][0]["data"] == [1, 0]


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".pickle"])
def test_a_pickle_is_described_only_when_it_may_run_its_code(tmp_path: Path, suffix: str) -> None:
    file = saved(tmp_path, LinearRegression().fit(ROWS, LABELS), f"model{suffix}")
    with pytest.raises(DescribeError, match="publish the model as skops"):
        describe(file, "m", "1", "me")
    described, files = describe(file, "m", "1", "me", trust_pickle=True)
    assert described.format is Format.SKLEARN_JOBLIB
    assert [Path(path).name for path in files] == ["model.joblib"]


def test_the_signature_of_an_onnx_model_is_its_own(onnx_iris: Path) -> None:
    (file,) = onnx_iris.glob("*/model.onnx")
    described, _ = describe(file, "m", "1", "me")
    assert [tensor.shape for tensor in described.inputs] == [(-1, 4)]
    assert [tensor.datatype for tensor in described.outputs] == [Datatype.INT64, Datatype.FP32]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.h5", b"x", "the suffix is not one of .skops, .joblib"),
        ("model", b"x", "the suffix is not one of"),
        ("model.skops", b"x", "cannot be opened as sklearn-skops"),
        ("model.onnx", b"x", "cannot be opened as onnx"),
        ("model.onnx", None, "No such file"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DescribeError) as error:
        describe(tmp_path / name, "m", "1", "me")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "version", "sample", "message"),
    [
        ("M", "1", None, "name 'M'"),
        ("m", "latest", None, "version 'latest'"),
        ("m", "1", [[1, 2, 3]], "fails on its sample: ValueError: X has 3 features"),
        ("m", "1", [["a", "b", "c", "d"]], "fails on its sample: ValueError"),
        ("m", "1", [[np.nan] * 4], "fails on its sample: ValueError: Input X contains NaN"),
        ("m", "1", [], "fails on its sample"),
        ("m", "1", [[1, 2, 3, 4], [1]], "rows of the same length"),
    ],
)
def test_what_cannot_be_published_is_refused_with_a_reason(
    tmp_path: Path, name: str, version: str, sample: Any, message: str
) -> None:
    file = saved(tmp_path, LogisticRegression(max_iter=1000).fit(ROWS, LABELS))
    with pytest.raises(DescribeError) as error:
        describe(file, name, version, "me", sample)
    assert message in str(error.value)


def test_the_manifest_says_what_made_the_model(tmp_path: Path) -> None:
    described, _ = describe(saved(tmp_path, LinearRegression().fit(ROWS, LABELS)), "m", "1", "me")
    assert set(described.frameworks) == {"scikit-learn", "skops", "numpy", "scipy"}
    assert described.created_by == "me"
    assert json.loads(manifest.dump(described))["schema"] == 1
