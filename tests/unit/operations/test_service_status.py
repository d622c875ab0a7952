"""What is told about services, from objects such as Kubernetes gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from infra import manifests, naming
from infra.config import Settings, parse
from operations import status
from operations.status import Object, ServiceStatus, Serving

SHA256 = 64 * "a"
NAMESPACE = naming.namespace("dev")
SETTINGS = parse(
    {
        "target": "local",
        "posture": "development",
        "servingImage": {"build": "serving_image"},
        "services": {
            "iris": {"model": {"name": "iris", "version": "1", "sha256": SHA256}},
            "app": {"build": "examples/flask", "port": 8000, "health": {"ready": "/r", "live": "/l"}},
        },
    }
)


class FakeCluster:
    """The Kubernetes API as data: objects by path, pods by service, logs by (pod, previous)."""

    def __init__(
        self,
        *,
        deployments: Mapping[str, Object] | None = None,
        pods: Mapping[str, list[Object]] | None = None,
        logs: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._deployments = deployments or {}
        self._pods = pods or {}
        self._logs = logs or {}
        self.tails: list[int] = []

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Object | None:
        if path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            assert query is not None
            key, _, service = query["labelSelector"].partition("=")
            # What the pods are asked for by must be among the labels by which the program's Service finds them.
            spec = manifests.service(SETTINGS.services[service], namespace=NAMESPACE)["spec"]
            assert spec["selector"][key] == service
            return {"items": self._pods[service]} if service in self._pods else None
        prefix = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/"
        assert path.startswith(prefix)
        return self._deployments.get(path.removeprefix(prefix))

    def request(self, method: str, path: str, query: Mapping[str, Any] | None = None) -> str:
        assert method == "GET"
        assert query is not None
        self.tails.append(query["tailLines"])
        pod = path.removeprefix(f"/api/v1/namespaces/{NAMESPACE}/pods/").removesuffix("/log")
        try:
            return self._logs[pod, query["previous"]]
        except KeyError:
            raise RuntimeError(f"{path}: HTTP 400: no log") from None


def deployment(*, replicas: int, container: Object) -> Object:
    return {"spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}}}


def model_container(name: str, version: str) -> Object:
    variables = [
        {"name": "MODEL_NAME", "value": name},
        {"name": "MODEL_VERSION", "value": version},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
    ]
    return {"image": f"maas.local/serving-image@sha256:{SHA256}", "env": variables}


def pod(
    name: str,
    *,
    container: Object | None = None,
    ready: bool = True,
    ending: bool = False,
    restarts: int | None = 0,
    problem: str | None = None,
) -> Object:
    statuses = [] if restarts is None else [{"restartCount": restarts}]
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "namespace": NAMESPACE} | ({"deletionTimestamp": "now"} if ending else {}),
        "spec": {"containers": [container or model_container("iris", "1")]},
        "status": {"containerStatuses": statuses, "conditions": conditions}
        | ({"problem": problem} if problem else {}),
    }


def problem_of(pod: Object) -> str | None:
    problem = pod["status"].get("problem")
    return None if problem is None else str(problem)


def look(cluster: FakeCluster, settings: Settings = SETTINGS) -> dict[str, ServiceStatus]:
    urls = {"iris": "http://127.0.0.1:30080"}
    found = status.services(cluster, settings, "dev", urls=urls, problem_of=problem_of)
    assert [it.name for it in found] == list(settings.services)
    return {it.name: it for it in found}


def test_a_service_that_is_not_there_says_how_to_get_it() -> None:
    found = look(FakeCluster())["iris"]
    assert found == ServiceStatus(
        name="iris",
        wanted="",
        serving=(),
        desired_replicas=0,
        url="http://127.0.0.1:30080",
        problems=("not deployed: ./maas up",),
    )
    assert not found.well


def test_what_is_served_is_what_the_pods_run() -> None:
    image = {"image": f"maas.local/flask@sha256:{SHA256}"}
    cluster = FakeCluster(
        deployments={
            "iris": deployment(replicas=1, container=model_container("iris", "7")),
            "app": deployment(replicas=1, container=image),
        },
        pods={
            "iris": [pod("iris-1", container=model_container("iris", "7"))],
            "app": [pod("a", container=image)],
        },
    )
    found = look(cluster)
    assert found["iris"].serving == (Serving(what="iris@7", ready=1, replicas=1),)
    assert found["app"].serving == (Serving(what=f"maas.local/flask@{SHA256[:12]}", ready=1, replicas=1),)
    assert found["iris"].well
    assert found["app"].well
    assert found["iris"].problems == ()


NEW = model_container("iris", "2")


@pytest.mark.parametrize(
    ("replicas", "pods", "serving", "well"),
    [
        pytest.param(1, [], (), False, id="just made"),
        pytest.param(0, [], (), False, id="scaled to nothing"),
        pytest.param(1, [pod("a", container=NEW)], (("iris@2", 1, 1),), True, id="rolled out"),
        pytest.param(2, [pod("a", container=NEW)], (("iris@2", 1, 1),), False, id="one is missing"),
        pytest.param(
            2,
            [pod("a"), pod("b"), pod("c", container=NEW, ready=False)],
            (("iris@1", 2, 2), ("iris@2", 0, 1)),
            False,
            id="a rollout that is stuck, or on its way",
        ),
        pytest.param(1, [pod("a")], (("iris@1", 1, 1),), False, id="only the old one runs"),
        pytest.param(
            1,
            [pod("a", ending=True), pod("b", container=NEW)],
            (("iris@2", 1, 1),),
            True,
            id="the old one is ending",
        ),
    ],
)
def test_a_service_is_well_when_all_that_should_run_is_ready_and_nothing_else_runs(
    replicas: int, pods: list[Object], serving: tuple[tuple[str, int, int], ...], well: bool
) -> None:
    cluster = FakeCluster(
        deployments={"iris": deployment(replicas=replicas, container=NEW)}, pods={"iris": pods}
    )
    found = look(cluster)["iris"]
    assert found.serving == tuple(Serving(what=what, ready=ready, replicas=of) for what, ready, of in serving)
    assert found.well is well


@pytest.mark.parametrize(
    ("restarts", "logs", "problem"),
    [
        # It never crashed: its present log tells what it waits for.
        (0, {("p", "false"): "digest differs\n"}, "p: not ready\ndigest differs"),
        # It crashed: the log of the run that crashed.
        (
            3,
            {("p", "true"): "Traceback\nBoom\n", ("p", "false"): "starting"},
            "p: not ready\nTraceback\nBoom",
        ),
        # It crashed, and that log is gone or empty: the present one.
        (3, {("p", "false"): "starting"}, "p: not ready\nstarting"),
        (3, {("p", "true"): " \n", ("p", "false"): "starting"}, "p: not ready\nstarting"),
        # Nothing was started yet.
        (None, {}, "p: not ready"),
        (0, {("p", "true"): "of another life"}, "p: not ready"),
    ],
)
def test_a_pod_that_is_not_ready_says_why_with_its_last_words(
    restarts: int | None, logs: Mapping[tuple[str, str], str], problem: str
) -> None:
    cluster = FakeCluster(
        deployments={"iris": deployment(replicas=1, container=model_container("iris", "1"))},
        pods={"iris": [pod("well"), pod("p", restarts=restarts, problem="not ready")]},
        logs=logs,
    )
    assert look(cluster)["iris"].problems == (problem,)
    assert set(cluster.tails) <= {3}


def test_logs_are_of_every_replica_and_one_without_a_log_is_no_failure() -> None:
    cluster = FakeCluster(pods={"iris": [pod("a"), pod("b")]}, logs={("a", "false"): "one\ntwo\n"})
    assert status.service_logs(cluster, "dev", "iris", lines=7) == [("a", "one\ntwo"), ("b", "")]
    assert cluster.tails == [7, 7]


def test_a_service_without_pods_has_no_logs() -> None:
    assert status.service_logs(FakeCluster(), "dev", "iris", lines=7) == []
