"""New versions of a model while requests keep coming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import skops.io

from examples.iris.train import train
from tests.e2e.conftest import IRIS_PORT, STATE, Checkout, wait_until
from tests.e2e.load import steady_load

ROW = [6.0, 2.2, 4.0, 1.0]
URL = f"http://127.0.0.1:{IRIS_PORT}/v2/models/iris/infer"
REQUEST = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}
PROBABILITIES = {version: train(version).predict_proba([ROW])[0] for version in ("1", "2")}


def version_of(answer: dict[str, Any]) -> str:
    """Which version gave this answer; AssertionError when it is not exactly that version's."""
    version = answer["model_version"]
    (probabilities,) = (tensor["data"] for tensor in answer["outputs"] if tensor["name"] == "predict_proba")
    assert np.allclose(probabilities, PROBABILITIES[version], rtol=1e-9), (version, probabilities)
    return str(version)


def served_version() -> str:
    return version_of(httpx.post(URL, json=REQUEST, trust_env=False).json())


@pytest.fixture(scope="module")
def second_version(checkout: Checkout, first_up: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("model") / "iris.skops"
    skops.io.dump(train("2"), file)
    assert "iris@2 sha256:" in checkout.maas("publish", str(file), "--name", "iris")
    return "iris@2"


def test_a_new_version_rolls_out_under_load_without_one_failed_request(
    platform: Checkout, second_version: str
) -> None:
    with steady_load(URL, REQUEST, version_of) as answers:
        printed = platform.maas("deploy", second_version)
    assert answers.failures == []
    assert answers.counts["1"] > 0
    assert answers.total > 100
    assert "git commit stacks/Pulumi.local.yaml" in printed
    wait_until(
        lambda: served_version() == "2", timeout_seconds=20, what="the last request that version 1 answers"
    )
    with steady_load(URL, REQUEST, version_of) as answers:
        platform.maas("deploy", "iris@1")
    assert answers.failures == []
    wait_until(
        lambda: served_version() == "1", timeout_seconds=20, what="the last request that version 2 answers"
    )


def test_a_tampered_model_file_is_refused_and_the_old_version_keeps_serving(
    platform: Checkout, tmp_path: Path
) -> None:
    file = tmp_path / "iris.skops"
    skops.io.dump(train("2"), file)
    platform.maas("publish", str(file), "--name", "iris", "--version", "tampered")
    (stored,) = (STATE / "store" / "models" / "iris" / "tampered").rglob("*.skops")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    with steady_load(URL, REQUEST, version_of) as answers:
        printed = platform.maas("deploy", "iris@tampered", expect=1)
        assert "sha256 is" in printed
        assert "names iris@tampered, which is not in service" in printed
        assert "./maas deploy iris@1" in printed
        assert re.search(r"iris@tampered 0/\d ready", platform.maas("status", expect=1))
    assert answers.failures == []
    assert set(answers.counts) == {"1"}
    platform.maas("deploy", "iris@1")
    assert "iris@1" in platform.maas("status")
