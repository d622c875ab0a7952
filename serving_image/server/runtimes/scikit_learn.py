"""scikit-learn models, from skops or joblib: one input; outputs `predict` and maybe `predict_proba`."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from serving_image.manifest import Format
from serving_image.server.protocol import Array
from serving_image.server.runtimes import InputError, ModelRefusedError

# The protocol has positions, not columns; the publisher's sample pins their order.
warnings.filterwarnings("ignore", message="X does not have valid feature names")

# All of "numpy." would include numpy.testing's `runstring`: a FunctionTransformer around it runs any code.
# So: classes of the modules that hold estimators and their state, and single functions that estimators name.
_CLASSES = (
    "sklearn.",
    "scipy.interpolate.",
    "scipy.sparse.",
    "scipy.stats.",
    "numpy.random.",
)
_NOT_MODELS = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils._testing.")
_NAMES = frozenset(
    {
        "numpy.dtype",
        "numpy.max",
        "numpy.mean",
        "numpy.median",
        "numpy.min",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.feature_selection._univariate_selection.r_regression",
    }
)


class SklearnRuntime:
    """Anything with the estimator interface."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        if not hasattr(estimator, "predict"):
            raise ModelRefusedError(f"{type(estimator).__name__} has no predict method")
        # With several targets, predict_proba is a list of arrays, which is no tensor.
        one_target = not isinstance(getattr(estimator, "classes_", None), list)
        with_probabilities = one_target and hasattr(estimator, "predict_proba")
        self.outputs = ("predict", "predict_proba") if with_probabilities else ("predict",)

    @classmethod
    def open(cls, content: bytes, model_format: Format) -> SklearnRuntime:
        if model_format is Format.SKLEARN_SKOPS:
            return cls(_load_skops(content))
        import joblib

        return cls(joblib.load(BytesIO(content)))

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        (rows,) = inputs.values()
        if rows.shape[0] == 0:
            raise InputError("scikit-learn models need at least one row")
        return {method: np.asarray(getattr(self.estimator, method)(rows)) for method in outputs}


def _load_skops(content: bytes) -> Any:
    import skops.io

    names = skops.io.get_untrusted_types(data=content)
    if refused := [name for name in names if not _is_trusted(name)]:
        raise ModelRefusedError(
            "only types of scikit-learn, numpy and scipy that make up models are trusted, not "
            + ", ".join(refused)
        )
    return skops.io.loads(content, trusted=names)


def _is_trusted(name: str) -> bool:
    """Whether skops may build this type, which its own list does not have."""
    if name in _NAMES:
        return True
    if not name.startswith(_CLASSES) or name.startswith(_NOT_MODELS):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    # Defined there: a module also holds what it imported from elsewhere.
    return isinstance(found, type) and found.__module__.startswith(_CLASSES)
