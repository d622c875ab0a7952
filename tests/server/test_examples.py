from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_iris

from examples.iris import train
from serving_image import manifest
from serving_image.server.model import Model, load_model
from serving_image.server.settings import Settings

ROOT = Path(__file__).parent.parent.parent
FLASK = ROOT / "examples/flask"
ROWS, _ = load_iris(return_X_y=True)


def probabilities(model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return model.runtime.predict({"input": ROWS}, ["predict_proba"])["predict_proba"]


def test_the_committed_artifact_is_what_its_script_makes(iris: Path, tmp_path: Path) -> None:
    made = load_model(train.write("1", tmp_path), Settings())
    committed = load_model(iris, Settings())
    assert made.manifest.inputs == committed.manifest.inputs
    assert made.manifest.outputs == committed.manifest.outputs
    assert made.manifest.sample.request == committed.manifest.sample.request
    assert made.manifest.frameworks == committed.manifest.frameworks
    assert np.allclose(probabilities(made), probabilities(committed))


def test_version_2_answers_measurably_otherwise(iris: Path, tmp_path: Path) -> None:
    second = load_model(train.write("2", tmp_path), Settings())
    assert second.manifest.version == "2"
    assert np.abs(probabilities(second) - probabilities(load_model(iris, Settings()))).max() > 0.1


def pins(requirements: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", requirements.read_text(), re.MULTILINE))


@pytest.mark.parametrize("folder", ["serving_image", "examples/flask"])
def test_an_image_installs_only_pinned_and_hashed_packages_that_it_asked_for(folder: str) -> None:
    asked, compiled = pins(ROOT / folder / "requirements.in"), ROOT / folder / "requirements.txt"
    text = compiled.read_text()
    assert asked.items() <= pins(compiled).items()
    assert text.count("==") == len(re.findall(r"== ?\S+ \\\n    --hash=sha256:", text))
    assert "://" not in text


def test_the_flask_example_pins_what_it_shares_with_the_serving_image() -> None:
    serving, flask = (
        pins(ROOT / folder / "requirements.txt") for folder in ("serving_image", "examples/flask")
    )
    assert {"numpy", "scipy", "scikit-learn", "skops"} <= serving.keys() & flask.keys()
    assert all(serving[name] == flask[name] for name in serving.keys() & flask.keys())


def test_the_flask_example_carries_the_model_of_the_store(iris: Path) -> None:
    described = manifest.load(manifest.read_manifest(iris))
    content = manifest.read_verified(iris, described)
    assert (FLASK / "model.skops").read_bytes() == content


def test_the_flask_example_answers_and_stops_when_asked(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}"
    command = [sys.executable, "-m", "gunicorn", "app:app", "--bind", f"127.0.0.1:{free_port}"]
    process = subprocess.Popen(command, cwd=FLASK, env={"MODE": "batch"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free_port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert httpx.get(url).json() == {"app": "flask-iris", "mode": "batch"}
        answer = httpx.post(f"{url}/predict", json={"rows": train.SAMPLE})
        assert answer.json() == {"species": ["setosa", "versicolor", "virginica"]}
        wrong_bodies: list[object] = [
            {},
            [],
            {"rows": [[1, 2]]},
            {"rows": "x"},
            {"rows": [["a"] * 4]},
            {"rows": [[1], [2, 3]]},
        ]
        for wrong in wrong_bodies:
            refused = httpx.post(f"{url}/predict", json=wrong)
            assert (refused.status_code, list(refused.json())) == (400, ["error"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
