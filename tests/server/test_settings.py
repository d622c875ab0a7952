from __future__ import annotations

from pathlib import Path

import pytest

from serving_image.server.settings import Settings, SettingsError, available_cpus, from_environment


def test_an_empty_environment_serves_the_mounted_model() -> None:
    settings = from_environment({"MODEL_SHA256": ""}, cpus=3)
    assert settings == Settings(prediction_threads=3)
    assert (settings.model_uri, settings.port, settings.drain_seconds) == ("/mnt/models", 8080, 5)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("MODEL_URI", "file:///srv/iris/1", "model_uri", "/srv/iris/1"),
        ("MODEL_URI", "s3://bucket/models/iris/1", "model_uri", "s3://bucket/models/iris/1"),
        ("AIP_HTTP_PORT", "8501", "port", 8501),
        ("DRAIN_SECONDS", "0.5", "drain_seconds", 0.5),
        ("MAX_REQUEST_BYTES", "1024", "max_request_bytes", 1024),
        ("TRUST_PICKLE", "true", "trust_pickle", True),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: object) -> None:
    assert getattr(from_environment({variable: text}, cpus=1), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MODEL_URI", "models/iris"),
        ("MODEL_URI", "ftp://host/iris"),
        ("MODEL_URI", "s3://"),
        ("MODEL_SHA256", "ABC"),
        ("MODEL_NAME", "Iris"),
        ("MODEL_VERSION", "latest"),
        ("AIP_HTTP_PORT", "0"),
        ("AIP_HTTP_PORT", "65536"),
        ("AIP_HTTP_PORT", "http"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("MAX_REQUEST_BYTES", "1e6"),
        ("PREDICTION_THREADS", "0"),
        ("TRUST_PICKLE", "yes"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_value(variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_environment({variable: text}, cpus=1)
    assert f"{variable}={text!r}: " in str(error.value)


def test_all_problems_of_the_environment_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        from_environment({"AIP_HTTP_PORT": "x", "DRAIN_SECONDS": "x", "TRUST_PICKLE": "x"}, cpus=1)
    assert all(name in str(error.value) for name in ("AIP_HTTP_PORT", "DRAIN_SECONDS", "TRUST_PICKLE"))


@pytest.mark.parametrize(("quota", "cpus"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None)])
def test_the_cpus_of_a_container_are_its_quota(tmp_path: Path, quota: str, cpus: int | None) -> None:
    unlimited = available_cpus(tmp_path / "absent")
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cpus(tmp_path / "cpu.max") == (cpus or unlimited)
