"""Which models are served, and why the server is not ready when it is not."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterable

from serving_image.server.model import Model, load_model
from serving_image.server.runtimes import ModelRefusedError
from serving_image.server.settings import Settings
from serving_image.server.source import StoreError, version_directories

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 1
_LAST_RETRY_SECONDS = 60


class UnknownModelError(LookupError):
    """No such model or version is served."""


class NotReadyError(RuntimeError):
    """The model is not served now, and may be later or elsewhere."""


class Registry:
    """Written by the loading thread, read by the event loop: every change is one assignment."""

    def __init__(self, problem: str | None = "models are loading") -> None:
        self._models: dict[str, dict[str, Model]] = {}
        # Why the server as a whole is not ready.
        self.problem = problem
        # Whether that is final: a refused model stays refused.
        self.refused = False
        self.draining = False

    @property
    def hopeless(self) -> bool:
        """Nothing is served and nothing will be: every model was refused."""
        return self.refused and not self._models

    @property
    def not_ready(self) -> str | None:
        """Why no new traffic should come, or None."""
        return "the server is shutting down" if self.draining else self.problem

    @property
    def models(self) -> list[Model]:
        return [model for versions in self._models.values() for model in versions.values()]

    def serve(self, models: Iterable[Model], problem: str | None) -> None:
        """Serve these models; `problem` says why others that should be served are not."""
        served: dict[str, dict[str, Model]] = {}
        for model in models:
            versions = served.setdefault(model.manifest.name, {})
            versions[model.manifest.version] = model
        self._models = served
        self.problem = problem
        self.refused = problem is not None

    def versions(self, name: str) -> list[str]:
        return list(self._models.get(name, ()))

    def find(self, name: str, version: str | None) -> Model:
        """The version asked for, else the one created last. Raises UnknownModelError and NotReadyError."""
        versions = self._models.get(name, {})
        if version is None and versions:
            return max(versions.values(), key=lambda model: (model.manifest.created, model.manifest.version))
        if version in versions:
            return versions[version]
        if self.problem is not None:
            # It may be the very one that is loading, or was refused.
            raise NotReadyError(self.problem)
        wanted = f"model {name!r}" if version is None else f"model {name!r} version {version!r}"
        served = ", ".join(sorted(f"{model.manifest.name}/{model.manifest.version}" for model in self.models))
        raise UnknownModelError(f"{wanted} is not served here; served: {served}")


def load(registry: Registry, settings: Settings) -> None:
    """Load every model into the registry; try again for as long as the store does not answer."""
    delay = _FIRST_RETRY_SECONDS
    while True:
        try:
            registry.serve(*_load_all(settings))
        except StoreError as error:
            registry.problem = str(error)
            _log.error("%s; next try in %d s", error, delay)
            time.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: readiness must say why
            registry.serve((), f"loading failed: {type(error).__name__}: {error}")
            _log.exception(registry.problem)
            return
        else:
            # What is loaded lives as long as the process; the collector need not visit it again.
            gc.collect()
            gc.freeze()
            return


def _load_all(settings: Settings) -> tuple[list[Model], str | None]:
    models: dict[tuple[str, str], Model] = {}
    refusals: list[str] = []
    try:
        with version_directories(settings) as directories:
            if len(directories) > 1 and (
                settings.model_sha256 or settings.model_name or settings.model_version
            ):
                raise ModelRefusedError(
                    f"MODEL_SHA256, MODEL_NAME and MODEL_VERSION name one model, {settings.model_uri} holds "
                    f"{len(directories)}: unset them, or set MODEL_URI to one version directory"
                )
            for directory in directories:
                started = time.monotonic()
                try:
                    model = load_model(directory, settings)
                except ModelRefusedError as error:
                    refusals.append(str(error))
                    continue
                key = model.manifest.name, model.manifest.version
                if key in models:
                    refusals.append(
                        f"{model.label} refused: {directory} is the second directory that holds it"
                    )
                    continue
                models[key] = model
                _log.info(
                    "%s ready in %.2f s, sha256 %s", model.label, time.monotonic() - started, model.sha256
                )
    except ModelRefusedError as error:
        refusals.append(str(error))
    for refusal in refusals:
        _log.error(refusal)
    return list(models.values()), "; ".join(refusals) or None
