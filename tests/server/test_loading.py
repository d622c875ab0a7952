from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest, chi2
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from serving_image.manifest import Format
from serving_image.server import model as server_model
from serving_image.server.model import load_model
from serving_image.server.runtimes import ModelRefusedError, framework_problems, open_model
from serving_image.server.settings import Settings

if TYPE_CHECKING:
    from tests.server.conftest import Edit

Change = Callable[[dict[str, Any]], None]


def refusal(directory: Path, **settings: Any) -> str:
    with pytest.raises(ModelRefusedError) as error:
        load_model(directory, Settings(model_uri=str(directory), **settings))
    return str(error.value)


def test_the_expected_model_loads(iris: Path) -> None:
    sha256 = load_model(iris, Settings()).sha256
    expected = Settings(model_sha256=sha256, model_name="iris", model_version="1")
    assert load_model(iris, expected).label == "model iris version 1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_sha256": "0" * 64}, f"MODEL_SHA256 says {'0' * 64}"),
        ({"model_name": "wine"}, "it is 'iris', MODEL_NAME says 'wine'"),
        ({"model_version": "2"}, "it is '1', MODEL_VERSION says '2'"),
    ],
)
def test_another_model_than_the_expected_one_is_refused(
    iris: Path, settings: dict[str, str], message: str
) -> None:
    assert message in refusal(iris, **settings)


def test_a_wrong_digest_is_refused_before_the_manifest_is_even_read(iris_copy: Path) -> None:
    (iris_copy / "manifest.json").write_bytes(b"not json")
    assert "MODEL_SHA256 says" in refusal(iris_copy, model_sha256="0" * 64)


def test_a_tampered_file_never_reaches_a_framework(iris_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_model, "open_model", lambda *_, **__: pytest.fail("opened"))
    (file,) = iris_copy.glob("*/model.skops")
    file.write_bytes(file.read_bytes().replace(b"PK", b"KP", 1))
    assert "model.skops: sha256 is" in refusal(iris_copy)


def test_a_second_file_is_verified_even_though_no_framework_opens_it(
    iris_copy: Path, edit_manifest: Edit
) -> None:
    def name_another(content: dict[str, Any]) -> None:
        content["files"]["notes.txt"] = {"sha256": "0" * 64, "size": 5}

    edit_manifest(iris_copy, name_another)
    (iris_copy / "notes.txt").write_text("notes")
    assert "notes.txt: sha256 is" in refusal(iris_copy)


def _framework(name: str, version: str) -> Change:
    return lambda content: content["frameworks"].update({name: version})


def _answer(index: int, data: list[float]) -> Change:
    return lambda content: content["sample"]["response"]["outputs"][index].update(data=data)


def _outputs(outputs: object) -> Change:
    return lambda content: content["sample"]["response"].update(outputs=outputs)


def _output_name(content: dict[str, Any]) -> None:
    content["sample"]["response"]["outputs"][0]["name"] = "score"


def _sample_shape(content: dict[str, Any]) -> None:
    content["sample"]["request"]["inputs"][0]["shape"] = [4, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_framework("scikit-learn", "1.2.0"), "made with scikit-learn 1.2.0 and this server has"),
        (_framework("skops", "0.9.0"), "made with skops 0.9.0 and this server has"),
        (_answer(0, [2, 1, 2]), "output 'predict' is [0, 1, 2], published as [2, 1, 2]"),
        (_answer(1, [0.1] * 9), "output 'predict_proba' is [0.98"),
        (_answer(1, [0.1] * 8), "output 'predict_proba' is [0.98"),
        (_outputs([]), "no outputs to compare"),
        (_outputs(None), "its own sample does not work"),
        (_output_name, "expects output 'score', which it does not give"),
        (_sample_shape, "its own sample does not work: input 'input': shape [4, 3]"),
    ],
)
def test_a_model_that_does_not_answer_as_published_is_refused(
    iris_copy: Path, edit_manifest: Edit, change: Change, message: str
) -> None:
    edit_manifest(iris_copy, change)
    reason = refusal(iris_copy)
    assert reason.startswith("model iris version 1 refused: ")
    assert message in reason


def test_rounding_differences_and_patch_versions_are_accepted(iris_copy: Path, edit_manifest: Edit) -> None:
    def another_machine(content: dict[str, Any]) -> None:
        data = content["sample"]["response"]["outputs"][1]["data"]
        data[:] = [value * (1 + 1e-7) for value in data]
        major, minor, _ = content["frameworks"]["scikit-learn"].split(".")
        content["frameworks"]["scikit-learn"] = f"{major}.{minor}.99"

    edit_manifest(iris_copy, another_machine)
    assert load_model(iris_copy, Settings()).label == "model iris version 1"


def test_a_framework_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Format, "frameworks", ("no-such-framework",))
    assert framework_problems(Format.ONNX, {"no-such-framework": "1.0"}) == [
        "it needs no-such-framework 1.0, which is not installed here"
    ]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04.", bytes(1000)])
@pytest.mark.parametrize("model_format", list(Format))
def test_a_corrupt_file_is_refused_with_one_line(model_format: Format, content: bytes) -> None:
    with pytest.raises(ModelRefusedError) as error:
        open_model(model_format, content, threads=1, trust_pickle=True)
    assert "\n" not in str(error.value)


ROWS, LABELS = load_iris(return_X_y=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(n_estimators=3, random_state=0),
        HistGradientBoostingClassifier(max_iter=3),
        KNeighborsClassifier(),
        MLPClassifier(max_iter=3, random_state=0),
        make_pipeline(
            FunctionTransformer(np.log1p), SelectKBest(chi2, k=2), LogisticRegression(max_iter=1000)
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_models_of_scikit_learn_are_trusted(estimator: Any) -> None:
    content = skops.io.dumps(estimator.fit(ROWS, LABELS))
    runtime = open_model(Format.SKLEARN_SKOPS, content, threads=1, trust_pickle=False)
    answer = runtime.predict({"input": ROWS}, ["predict"])["predict"]
    assert np.array_equal(answer, estimator.predict(ROWS))


def _refused_functions() -> list[Any]:
    import os.path
    import shutil

    import sklearn.datasets
    from numpy.testing._private.utils import runstring

    return [os.path.join, shutil.rmtree, runstring, np.fromfile, np.save, sklearn.datasets.load_files]


@pytest.mark.parametrize("function", _refused_functions(), ids=lambda function: str(function.__name__))
def test_a_function_that_can_touch_the_machine_is_refused_by_name(function: Any) -> None:
    content = skops.io.dumps(FunctionTransformer(function))
    with pytest.raises(ModelRefusedError, match=f"not .*{function.__name__}"):
        open_model(Format.SKLEARN_SKOPS, content, threads=1, trust_pickle=False)


def test_what_a_trusted_module_imported_from_elsewhere_is_not_trusted() -> None:
    from serving_image.server.runtimes.scikit_learn import _is_trusted

    assert _is_trusted("sklearn.tree._tree.Tree")
    assert not _is_trusted("sklearn.base.inspect")
    assert not _is_trusted("sklearn.utils.parallel.Parallel.nothing")
    assert not _is_trusted("sklearn.no_such_module.Thing")
    assert not _is_trusted("sklearn.utils._joblib.Parallel")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was opened",)


def test_a_pickle_is_not_opened_unless_its_publisher_is_trusted() -> None:
    with pytest.raises(ModelRefusedError, match="TRUST_PICKLE=true if you trust the publisher"):
        open_model(Format.SKLEARN_JOBLIB, pickle.dumps(_Bomb()), threads=1, trust_pickle=False)


@pytest.mark.parametrize("compress", [0, 3])
def test_a_trusted_pickle_is_served(compress: int) -> None:
    stream = BytesIO()
    joblib.dump(LogisticRegression(max_iter=1000).fit(ROWS, LABELS), stream, compress=compress)
    runtime = open_model(Format.SKLEARN_JOBLIB, stream.getvalue(), threads=1, trust_pickle=True)
    assert runtime.outputs == ("predict", "predict_proba")


def test_an_object_that_cannot_predict_is_refused() -> None:
    content = skops.io.dumps({"not": "a model"})
    with pytest.raises(ModelRefusedError, match="dict has no predict method"):
        open_model(Format.SKLEARN_SKOPS, content, threads=1, trust_pickle=False)


def test_an_onnx_model_answers_like_the_model_it_was_made_from(onnx_iris: Path, iris: Path) -> None:
    onnx, sklearn = (load_model(directory, Settings()) for directory in (onnx_iris, iris))
    rows = {"datatype": "FP32", "shape": list(ROWS.shape), "data": ROWS.tolist()}
    answers = [
        json.loads(model.infer(json.dumps({"inputs": [{"name": name, **rows}]}).encode()))["outputs"]
        for model, name in ((onnx, onnx.manifest.inputs[0].name), (sklearn, "input"))
    ]
    assert answers[0][0]["data"] == answers[1][0]["data"]
    assert np.allclose(answers[0][1]["data"], answers[1][1]["data"], atol=1e-5)


def test_an_onnx_model_cannot_read_weights_from_files_that_were_not_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights]
    )
    file = tmp_path / "model.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, str(file), save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefusedError, match="External data path"):
        open_model(Format.ONNX, file.read_bytes(), threads=1, trust_pickle=False)


def test_several_inputs_are_bound_by_name_and_inconsistent_ones_are_the_clients_error(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    from serving_image import manifest
    from serving_image.describe import describe
    from serving_image.server.protocol import RequestError

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("a", "b", "difference")
    ]
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["difference"])], "g", ends[:2], ends[2:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "difference.onnx").write_bytes(made.SerializeToString())
    described, files = describe(tmp_path / "difference.onnx", "difference", "1", "test")
    for path, content in files.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(content)
    (tmp_path / "manifest.json").write_bytes(manifest.dump(described))
    model = load_model(tmp_path, replace(Settings(), prediction_threads=2))

    def ask(first: list[int], second: list[int]) -> Any:
        inputs = [
            {"name": name, "datatype": "FP32", "shape": [len(data) // 2, 2], "data": data}
            for name, data in (("b", second), ("a", first))
        ]
        return json.loads(model.infer(json.dumps({"inputs": inputs}).encode()))["outputs"][0]["data"]

    assert ask([5, 5], [1, 2]) == [4, 3]
    with pytest.raises(RequestError, match="inputs"):
        model.infer(b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}')
