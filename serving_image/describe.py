"""Make the manifest of a model file: what it takes and gives, and a sample the server's runtime answered.

Does not write or publish anything. Frameworks are imported only for a file that needs them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from serving_image import manifest as artifact
from serving_image.manifest import Datatype, File, Format, Manifest, ManifestError, Sample, Tensor
from serving_image.server import protocol
from serving_image.server.model import Model
from serving_image.server.protocol import Array
from serving_image.server.runtimes import ModelRefusedError, Runtime, open_model

if TYPE_CHECKING:
    from serving_image.server.runtimes.onnx import OnnxRuntime
    from serving_image.server.runtimes.scikit_learn import SklearnRuntime

Rows = Sequence[Any] | Array
_Signature = list[tuple[Tensor, Array]]

FORMATS: Mapping[str, Format] = {
    ".skops": Format.SKLEARN_SKOPS,
    ".joblib": Format.SKLEARN_JOBLIB,
    ".pkl": Format.SKLEARN_JOBLIB,
    ".pickle": Format.SKLEARN_JOBLIB,
    ".onnx": Format.ONNX,
}
# What a model of this format is made and read with.
_FRAMEWORKS = {
    Format.SKLEARN_SKOPS: ("scikit-learn", "skops", "numpy", "scipy"),
    Format.SKLEARN_JOBLIB: ("scikit-learn", "joblib", "numpy", "scipy"),
    Format.ONNX: ("onnxruntime",),
}


class DescribeError(ValueError):
    """No manifest can be made for this file; the message says why and what to do."""


def describe(
    path: Path,
    name: str,
    version: str,
    created_by: str,
    sample: Rows | None = None,
    *,
    trust_pickle: bool = False,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a model file, and the files that belong beside it by their path in the artifact.

    `sample` is rows that the model takes (ONNX: a value of its one input); real ones make the better check.
    `trust_pickle` lets a pickle-based file run its code here. Raises DescribeError.
    """
    try:
        manifest, runtime, files = _describe(path, name, version, created_by, sample, trust_pickle)
        manifest_bytes = artifact.dump(manifest)
    except OSError as error:
        raise DescribeError(f"{path}: {error.strerror}") from error
    except (ModelRefusedError, ManifestError, protocol.RequestError, protocol.ResponseError) as error:
        raise DescribeError(f"{path.name}: {error}") from error
    model = Model(manifest=manifest, sha256=artifact.digest(manifest_bytes), runtime=runtime)
    if problem := model.sample_problem():
        raise DescribeError(f"{path.name}: {problem}")
    return manifest, files


def _describe(
    path: Path, name: str, version: str, created_by: str, sample: Rows | None, trust_pickle: bool
) -> tuple[Manifest, Runtime, dict[str, bytes]]:
    model_format = FORMATS.get(path.suffix.lower())
    if model_format is None:
        raise DescribeError(f"{path.name}: the suffix is not one of {', '.join(FORMATS)}")
    frameworks = _installed(path, model_format)
    content = path.read_bytes()
    runtime = open_model(model_format, content, threads=1, trust_pickle=trust_pickle)
    if model_format is Format.ONNX:
        inputs, outputs = _describe_onnx(cast("OnnxRuntime", runtime), sample)
    else:
        inputs, outputs = _describe_sklearn(cast("SklearnRuntime", runtime), sample)
    response = protocol.encode_response(
        model_name=name,
        model_version=version,
        request_id="sample",
        outputs=[protocol.named_tensor(spec, array) for spec, array in outputs],
    )
    request = [protocol.encode_tensor(protocol.named_tensor(spec, array)) for spec, array in inputs]
    sha256 = hashlib.sha256(content).hexdigest()
    # The folder is named by its content, so that two publishers at once never mix their files.
    artifact_path = f"{sha256[:12]}/model{model_format.suffix}"
    manifest = Manifest(
        schema=artifact.SCHEMA,
        name=name,
        version=version,
        format=model_format,
        frameworks=frameworks,
        inputs=tuple(spec for spec, _ in inputs),
        outputs=tuple(spec for spec, _ in outputs),
        sample=Sample(request={"id": "sample", "inputs": request}, response=msgspec.json.decode(response)),
        files={artifact_path: File(sha256=sha256, size=len(content))},
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        created_by=created_by,
    )
    return manifest, runtime, {artifact_path: content}


def _describe_sklearn(runtime: SklearnRuntime, sample: Rows | None) -> tuple[_Signature, _Signature]:
    if sample is None:
        features = getattr(runtime.estimator, "n_features_in_", None)
        if features is None:
            raise DescribeError("the model does not say how many features it takes: give sample rows")
        sample = np.zeros((1, features))
    rows = _rows(sample)
    if rows.dtype.kind not in "biufUO" or rows.ndim == 0:
        raise DescribeError(f"sample rows of type {rows.dtype} are neither numbers nor text")
    datatype = Datatype.BYTES if rows.dtype.kind in "UO" else Datatype.FP64
    spec = Tensor(name="input", datatype=datatype, shape=(-1, *rows.shape[1:]))
    rows = rows.astype(protocol.DTYPES[datatype])
    results = _run(runtime, {spec.name: rows})
    return [(spec, rows)], [(_output_spec(name, array), array) for name, array in results.items()]


def _describe_onnx(runtime: OnnxRuntime, sample: Rows | None) -> tuple[_Signature, _Signature]:
    inputs: _Signature = []
    if sample is not None and len(runtime.input_tensors) != 1:
        raise DescribeError(
            f"sample rows fit a model of one input, this one has {len(runtime.input_tensors)}"
        )
    for spec in runtime.input_tensors:
        dtype = protocol.DTYPES[spec.datatype]
        if sample is not None:
            inputs.append((spec, _rows(sample, dtype)))
        else:
            sizes = [1 if size == -1 else size for size in spec.shape]
            inputs.append((spec, np.full(sizes, "" if spec.datatype is Datatype.BYTES else 0, dtype=dtype)))
    results = _run(runtime, {spec.name: array for spec, array in inputs})
    return inputs, [(spec, results[spec.name]) for spec in runtime.output_tensors]


def _rows(sample: Rows, dtype: np.dtype[Any] | None = None) -> Array:
    try:
        return np.asarray(sample, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DescribeError(f"sample rows must be rows of the same length, of one type: {error}") from error


def _run(runtime: Runtime, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    try:
        return runtime.predict(inputs, runtime.outputs)
    except Exception as error:  # the model is foreign code: what it raises has no bound
        raise DescribeError(f"the model fails on its sample: {type(error).__name__}: {error}") from error


def _output_spec(name: str, array: Array) -> Tensor:
    datatype = protocol.datatype_of(array.dtype)
    if datatype is None:
        raise DescribeError(f"output {name!r} is {array.dtype}, which the inference protocol cannot carry")
    return Tensor(name=name, datatype=datatype, shape=(-1, *array.shape[1:]))


def _installed(path: Path, model_format: Format) -> dict[str, str]:
    try:
        return {framework: version_of(framework) for framework in _FRAMEWORKS[model_format]}
    except PackageNotFoundError as error:
        raise DescribeError(f"{path.name}: to read it, {error.name} must be installed here") from error
