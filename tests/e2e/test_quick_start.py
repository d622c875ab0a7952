"""What a new user does, word for word, against a real Kubernetes."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

import httpx
import pytest
import skops.io
from sklearn.datasets import load_iris

from machine import build
from machine.layout import Layout
from tests.e2e.conftest import FLASK_PORT, IRIS_PORT, ROOT, STATE, Checkout, wait_until

IRIS = f"http://127.0.0.1:{IRIS_PORT}"


def kubectl(*arguments: str, expect: int = 0, stdin: str | None = None) -> str:
    layout = Layout(state=STATE, cache=_cache())
    command = [build.directory(layout) / "kubectl", f"--kubeconfig={layout.kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def _cache() -> Any:
    from cli.platforms import layout

    return layout().cache


def test_up_ends_with_a_curl_line_that_works_when_pasted_and_its_answer(first_up: str) -> None:
    lines = [line.strip() for line in first_up.splitlines()]
    curls = [index for index, line in enumerate(lines) if line.startswith("curl ")]
    assert len(curls) == 2, first_up
    for index in curls:
        command = f"{lines[index]} --silent --show-error --fail --noproxy '*'"
        pasted = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        answer, printed = json.loads(pasted), json.loads(lines[index + 1])
        assert answer == printed
    assert IRIS in first_up
    assert shlex.split(lines[curls[1]])[1].startswith(IRIS)


def test_the_endpoint_answers_like_the_model_does_in_process(platform: Checkout) -> None:
    version = ROOT / "examples" / "models" / "iris" / "1"
    (file,) = version.rglob("*.skops")
    model = skops.io.load(file)
    rows = load_iris().data.tolist()
    request = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [len(rows), 4], "data": rows}]}
    outputs = httpx.post(f"{IRIS}/v2/models/iris/infer", json=request, trust_env=False).json()["outputs"]
    answer = {tensor["name"]: tensor["data"] for tensor in outputs}
    assert answer["predict"] == model.predict(rows).tolist()
    assert answer["predict_proba"] == pytest.approx(model.predict_proba(rows).ravel().tolist(), rel=1e-9)


def test_an_ordinary_web_app_is_served_like_a_model(platform: Checkout) -> None:
    response = httpx.post(
        f"http://127.0.0.1:{FLASK_PORT}/predict", json={"rows": [[5.1, 3.5, 1.4, 0.2]]}, trust_env=False
    )
    assert response.json() == {"species": ["setosa"]}


def test_a_second_up_changes_nothing_and_says_so(platform: Checkout) -> None:
    before = kubectl(
        "get", "deployments,services,hpa", "-A", "-o", "jsonpath={.items[*].metadata.generation}"
    )
    assert "nothing to do" in platform.maas("up")
    assert (
        kubectl("get", "deployments,services,hpa", "-A", "-o", "jsonpath={.items[*].metadata.generation}")
        == before
    )


def test_a_preview_of_what_is_up_shows_no_changes(platform: Checkout) -> None:
    assert "no changes" in platform.maas("preview")


def test_a_preview_shows_each_property_that_an_edit_changes(platform: Checkout) -> None:
    platform.edit("replicas: { min: 2, max: 4 }", "replicas: { min: 2, max: 5 }")
    preview = json.loads(platform.maas("preview", "--json"))
    changed = [change for change in preview["changes"] if change["operation"] != "same"]
    assert [(change["name"], change["operation"]) for change in changed] == [("iris-autoscaler", "update")]
    assert changed[0]["changes"] == [{"path": "spec.maxReplicas", "old": 4, "new": 5}]


def test_predict_asks_the_endpoint(platform: Checkout) -> None:
    answer = json.loads(platform.maas("predict", "iris", "[[5.1, 3.5, 1.4, 0.2]]"))
    assert answer["outputs"][0]["data"] == [0]


def test_a_pulled_version_is_the_published_one(platform: Checkout, tmp_path: object) -> None:
    target = f"{tmp_path}/iris"
    assert "verified" in platform.maas("pull", "iris@1", "--to", target)
    original = ROOT / "examples" / "models" / "iris" / "1"
    same = subprocess.run(
        ["diff", "--recursive", original, target], capture_output=True, text=True, check=False
    )
    assert same.returncode == 0, same.stdout


def test_status_and_logs_show_every_replica(platform: Checkout) -> None:
    wait_until(
        lambda: "2/2 ready" in platform.maas("status", expect=None),
        timeout_seconds=90,
        what="the autoscaler's minimum of 2 replicas",
    )
    assert "iris@1" in platform.maas("status")
    assert platform.maas("logs", "iris").count("==> iris-") == 2


def test_the_metrics_api_feeds_the_autoscaler(platform: Checkout) -> None:
    jsonpath = "jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}"
    wait_until(
        lambda: kubectl("get", "hpa", "iris", "-n", "model-serving-local", "-o", jsonpath).isdecimal(),
        timeout_seconds=120,
        what="the CPU use of iris in its HorizontalPodAutoscaler",
    )


def test_the_namespace_refuses_a_pod_that_is_not_restricted(platform: Checkout) -> None:
    refused = kubectl("run", "root", "-n", "model-serving-local", "--image=maas.local/pause:1", expect=1)
    assert 'violates PodSecurity "restricted' in refused


def test_service_names_resolve_and_cluster_addresses_answer_inside(platform: Checkout) -> None:
    pod = kubectl(
        "get", "pods", "-n", "model-serving-local", "-l", "app.kubernetes.io/name=flask-iris", "-o", "name"
    ).split()[0]
    script = "import urllib.request; print(urllib.request.urlopen('http://iris/v2/health/ready', timeout=5).status)"
    assert kubectl("exec", "-n", "model-serving-local", pod, "--", "python3", "-c", script).strip() == "200"


def test_nothing_in_the_cluster_reaches_another_network(platform: Checkout) -> None:
    pod = kubectl(
        "get", "pods", "-n", "model-serving-local", "-l", "app.kubernetes.io/name=flask-iris", "-o", "name"
    ).split()[0]
    script = (
        "import socket\n"
        "try: socket.create_connection(('192.0.2.1', 80), timeout=3)\n"
        "except OSError as error: print(type(error).__name__, error)"
    )
    assert "unreachable" in kubectl("exec", "-n", "model-serving-local", pod, "--", "python3", "-c", script)


def test_the_kubeconfig_is_readable_by_root_alone(platform: Checkout) -> None:
    assert (STATE / "kubeconfig").stat().st_mode & 0o777 == 0o600
