"""One served model: checks what comes in and goes out, and proves first that it answers as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from serving_image import manifest as artifact
from serving_image.manifest import Manifest, ManifestError
from serving_image.server import protocol
from serving_image.server.protocol import NamedTensor, RequestError, ResponseError
from serving_image.server.runtimes import (
    InputError,
    ModelRefusedError,
    Runtime,
    framework_problems,
    open_model,
)
from serving_image.server.settings import Settings

# Another CPU rounds sums differently; a changed model differs by far more.
_RELATIVE_TOLERANCE = 1e-4
_ABSOLUTE_TOLERANCE = 1e-6


class PredictionError(RuntimeError):
    """The model raised, or answered with what cannot be sent."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that can be asked. Its methods block, and may be called from several threads at once."""

    manifest: Manifest
    sha256: str
    runtime: Runtime

    @property
    def label(self) -> str:
        return f"model {self.manifest.name} version {self.manifest.version}"

    def infer(self, body: bytes) -> bytes:
        """Answer an infer request. Raises RequestError and PredictionError."""
        request = protocol.decode_request(body)
        outputs = self.predict(request)
        try:
            return protocol.encode_response(
                model_name=self.manifest.name,
                model_version=self.manifest.version,
                request_id=request.id,
                outputs=outputs,
            )
        except ResponseError as error:
            raise PredictionError(f"{self.label}: {error}") from error

    def predict(self, request: protocol.InferRequest) -> list[NamedTensor]:
        """Compute the outputs that a request asks for. Raises RequestError and PredictionError."""
        specs = {tensor.name: tensor for tensor in self.manifest.outputs}
        if unknown := [name for name in request.outputs if name not in specs]:
            raise RequestError(f"outputs {unknown}: the model gives {list(specs)}")
        names = request.outputs or tuple(specs)
        inputs = protocol.bind_inputs(request.inputs, self.manifest.inputs)
        try:
            results = self.runtime.predict(inputs, names)
            return [protocol.named_tensor(specs[name], results[name]) for name in names]
        except InputError as error:
            raise RequestError(str(error)) from error
        except Exception as error:  # the model is foreign code: what it raises has no bound
            raise PredictionError(f"{self.label} failed: {type(error).__name__}: {error}") from error

    def sample_problem(self) -> str | None:
        """Replay the manifest's sample, which is also the warm-up; say how the answer differs, if it does."""
        sample = self.manifest.sample
        try:
            actual = msgspec.json.decode(self.infer(msgspec.json.encode(sample.request)))["outputs"]
            expected = msgspec.convert(sample.response.get("outputs"), list[_SampleOutput])
        except (RequestError, PredictionError, msgspec.ValidationError) as error:
            return f"its own sample does not work: {error}"
        if not expected:
            return "its sample has no outputs to compare"
        answers = {output["name"]: output for output in actual}
        for output in expected:
            if output.name not in answers:
                return f"its sample expects output {output.name!r}, which it does not give"
            answer = answers[output.name]
            if (output.shape, output.datatype) != (tuple(answer["shape"]), answer["datatype"]):
                return (
                    f"output {output.name!r} of its sample is {answer['datatype']} {answer['shape']}, "
                    f"published as {output.datatype} {list(output.shape)}"
                )
            if not _same(output.data, answer["data"]):
                return (
                    f"it does not answer its sample as published: output {output.name!r} is "
                    f"{_excerpt(answer['data'])}, published as {_excerpt(output.data)}"
                )
        return None


class _SampleOutput(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[int | float | str | bool]


def load_model(directory: Path, settings: Settings) -> Model:
    """Open the model in a version directory, checking everything that is known about it first.

    Order matters: the digest covers the manifest, the manifest the files, and only then does a framework see
    a byte of the model. Raises ModelRefusedError.
    """
    try:
        manifest, sha256 = checked_manifest(artifact.read_manifest(directory), settings)
        label = f"model {manifest.name} version {manifest.version}"
        if problems := framework_problems(manifest.format, manifest.frameworks):
            raise ModelRefusedError(f"{label} refused: " + "; ".join(problems))
        content = artifact.read_verified(directory, manifest)
    except ManifestError as error:
        raise ModelRefusedError(f"model in {directory} refused: {error}") from error
    try:
        runtime = open_model(
            manifest.format,
            content,
            threads=settings.prediction_threads,
            trust_pickle=settings.trust_pickle,
        )
    except ModelRefusedError as error:
        raise ModelRefusedError(f"{label} refused: {error}") from error
    model = Model(manifest=manifest, sha256=sha256, runtime=runtime)
    if problem := model.sample_problem():
        raise ModelRefusedError(f"{label} refused: {problem}")
    return model


def checked_manifest(manifest_bytes: bytes, settings: Settings) -> tuple[Manifest, str]:
    """A manifest and its digest, if they are those expected. Raises ModelRefusedError and ManifestError."""
    sha256 = artifact.digest(manifest_bytes)
    if settings.model_sha256 not in (None, sha256):
        raise ModelRefusedError(
            f"model refused: the sha256 of {artifact.FILE_NAME} is {sha256}, "
            f"MODEL_SHA256 says {settings.model_sha256}"
        )
    manifest = artifact.load(manifest_bytes)
    for variable, expected, actual in (
        ("MODEL_NAME", settings.model_name, manifest.name),
        ("MODEL_VERSION", settings.model_version, manifest.version),
    ):
        if expected not in (None, actual):
            raise ModelRefusedError(f"model refused: it is {actual!r}, {variable} says {expected!r}")
    return manifest, sha256


def _same(expected: Sequence[object], actual: Sequence[object]) -> bool:
    numbers = all(isinstance(value, float) for value in actual)
    numbers = numbers and all(type(value) in (int, float) for value in expected)
    if len(expected) != len(actual) or not numbers:
        return list(expected) == list(actual)
    return np.allclose(
        np.array(actual, dtype=np.float64),
        np.array(expected, dtype=np.float64),
        rtol=_RELATIVE_TOLERANCE,
        atol=_ABSOLUTE_TOLERANCE,
    )


def _excerpt(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    return f"[{shown}, ...]" if len(values) > 5 else f"[{shown}]"
