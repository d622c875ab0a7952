"""What runs a model: one module per framework, each imported only when a model needs it.

A runtime is given the verified bytes of a model and plain arrays. It knows neither files nor the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from serving_image.manifest import Format
from serving_image.server.protocol import Array

__all__ = ["InputError", "ModelRefusedError", "Runtime", "framework_problems", "open_model"]


class ModelRefusedError(RuntimeError):
    """A model must not be served; the message is the reason, for the person who published it."""


class InputError(ValueError):
    """The model cannot take these values; a client's mistake, not the model's."""


class Runtime(Protocol):
    """An open model. `predict` may be called from several threads at once."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of every output that the model can give."""

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Compute the named outputs. Raises InputError; whatever else it raises is the model's failure."""


def open_model(model_format: Format, content: bytes, *, threads: int, trust_pickle: bool) -> Runtime:
    """Open a model from its verified bytes. Raises ModelRefusedError."""
    if model_format is Format.SKLEARN_JOBLIB and not trust_pickle:
        raise ModelRefusedError(
            f"format {model_format.value} is pickle, which runs its publisher's code when it is opened; "
            "publish the model as skops, or set TRUST_PICKLE=true if you trust the publisher"
        )
    try:
        if model_format is Format.ONNX:
            from serving_image.server.runtimes.onnx import OnnxRuntime

            return OnnxRuntime.open(content, threads=threads)
        from serving_image.server.runtimes.scikit_learn import SklearnRuntime

        return SklearnRuntime.open(content, model_format)
    except (ModelRefusedError, MemoryError):
        raise
    except Exception as error:  # a parser of foreign bytes: what it raises has no bound
        reason = str(error).strip().splitlines()
        raise ModelRefusedError(
            f"the file cannot be opened as {model_format.value}: {type(error).__name__}"
            + (f": {reason[0]}" if reason else "")
        ) from error


def framework_problems(model_format: Format, frameworks: Mapping[str, str]) -> list[str]:
    """Why a model made with these framework versions cannot be served by the installed ones."""
    problems = []
    for framework in model_format.frameworks:
        made_with = frameworks[framework]
        try:
            installed = version(framework)
        except PackageNotFoundError:
            problems.append(f"it needs {framework} {made_with}, which is not installed here")
            continue
        if made_with.split(".")[:2] != installed.split(".")[:2]:
            problems.append(
                f"it was made with {framework} {made_with} and this server has {installed}: "
                f"publish it again from {framework} {'.'.join(installed.split('.')[:2])}"
            )
    return problems
