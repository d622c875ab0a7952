"""The offline engine with a small program of its own, in a namespace of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import select_engine
from engine.cluster import Cluster
from engine.offline import OfflineEngine
from engine.plan import SECRET, EngineError, Operation, Preview, ResourceEvent, Result, Status, to_json
from machine.layout import NODE_NAME
from tests.e2e.conftest import ROOT, STATE

KUBECONFIG = STATE / "kubeconfig"
NAMESPACE = "maas-engine-tests"
SERVE = {
    "command": ["/usr/bin/python3", "-m", "http.server", "8080", "--directory", "/tmp"],
    "pod": {"termination_grace_period_seconds": 1},
    "container": {"readiness_probe": {"http_get": {"path": "/", "port": 8080}, "period_seconds": 1}},
}


def ignore(_: ResourceEvent) -> None: ...


@dataclass
class Lab:
    """The sample program, its stack file as a test wants it, and what the engine reported."""

    directory: Path
    image: str
    events: list[ResourceEvent] = field(default_factory=list)

    def engine(self, services: dict[str, Any] | None = None, **changes: Any) -> OfflineEngine:
        service = {"image": self.image, "replicas": 1, "port": 8080, **SERVE, **changes}
        config = {"context": NODE_NAME, "namespace": NAMESPACE, "services": services or {"web": service}}
        file = self.directory / "Pulumi.dev.yaml"
        file.write_text(yaml.safe_dump({"config": {f"sample:{key}": value for key, value in config.items()}}))
        engine = select_engine(
            "offline",
            project_dir=ROOT / "tests/program/programs/kubernetes_app",
            project="sample",
            stack="dev",
            config_file=file,
            state_dir=self.directory,
            environment={"KUBECONFIG": str(KUBECONFIG)},
        )
        assert isinstance(engine, OfflineEngine)
        return engine

    def up(self, **changes: Any) -> Result:
        self.events.clear()
        return self.engine(**changes).up(self.events.append)

    def preview(self, **changes: Any) -> Preview:
        return self.engine(**changes).preview()

    def get(self, path: str) -> dict[str, Any] | None:
        return Cluster(kubeconfig=str(KUBECONFIG), context=NODE_NAME).get(path.format(namespace=NAMESPACE))


@pytest.fixture(scope="module")
def lab(first_up: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    assert first_up
    cluster = Cluster(kubeconfig=str(KUBECONFIG), context=NODE_NAME)
    iris = cluster.get("/apis/apps/v1/namespaces/model-serving-local/deployments/iris")
    assert iris is not None
    # Any image with a Python that the node has already.
    made = Lab(tmp_path_factory.mktemp("lab"), iris["spec"]["template"]["spec"]["containers"][0]["image"])
    made.engine().destroy(ignore)  # what an interrupted run has left
    yield made
    made.engine().destroy(ignore)


@pytest.fixture
def running(lab: Lab) -> Lab:
    lab.up()
    return lab


DEPLOYMENT = "/apis/apps/v1/namespaces/{namespace}/deployments/web"
CONFIG_MAP = "/api/v1/namespaces/{namespace}/configmaps/web-settings"


def test_up_creates_everything_in_order_and_waits_until_it_is_ready(lab: Lab) -> None:
    assert lab.preview().counts == {"create": 5}
    assert lab.get("/api/v1/namespaces/{namespace}") is None  # a preview makes nothing
    result = lab.up()
    assert result.counts == {"create": 5}
    assert result.outputs == {"webHost": f"web.{NAMESPACE}", "token": SECRET}
    deployment = lab.get(DEPLOYMENT)
    assert deployment is not None
    assert deployment["status"]["availableReplicas"] == 1
    assert deployment["metadata"]["labels"]["maas.dev/stack"] == "sample.dev"
    done = [event.name for event in lab.events if event.status is Status.DONE]
    assert done[0] == "apps"
    assert done[-2:] == ["web-deployment", "web-service"]
    assert any(event.status is Status.WAITING and event.message for event in lab.events)


def test_up_with_nothing_to_do_changes_nothing(running: Lab) -> None:
    before = running.get(DEPLOYMENT)
    result = running.up()
    assert (result.changed, result.counts) == (0, {"same": 5})
    assert before == running.get(DEPLOYMENT)
    assert running.preview().counts == {"same": 5}


def test_a_preview_is_property_by_property_and_hides_secrets(running: Lab) -> None:
    preview = running.preview(mode="stream", key="another-secret")
    changes = {
        change.name: [(it.path, it.old, it.new) for it in change.changes]
        for change in preview.changes
        if change.operation is Operation.UPDATE
    }
    assert changes == {
        "web-settings": [("data.MODE", "batch", "stream")],
        "web-key": [("data.key", SECRET, SECRET)],
        "web-deployment": [("spec.template.spec.containers[web].env[MODE].value", "batch", "stream")],
    }
    assert preview.counts == {"update": 3, "same": 2}
    assert "another-secret" not in json.dumps(to_json(preview))
    assert running.preview().counts == {"same": 5}


def test_up_updates_what_changed_and_nothing_else(running: Lab) -> None:
    assert running.up(mode="stream").counts == {"update": 2, "same": 3}
    settings = running.get(CONFIG_MAP)
    assert settings is not None
    assert settings["data"] == {"MODE": "stream"}
    assert running.up().counts == {"update": 2, "same": 3}


def test_what_somebody_else_changed_is_shown_and_put_back(running: Lab) -> None:
    cluster = Cluster(kubeconfig=str(KUBECONFIG), context=NODE_NAME)
    path = CONFIG_MAP.format(namespace=NAMESPACE)
    cluster.request(
        "PATCH", path, body={"data": {"MODE": "hand"}}, content_type="application/merge-patch+json"
    )
    (change,) = [it for it in running.preview().changes if it.operation is Operation.UPDATE]
    assert [(it.path, it.old, it.new) for it in change.changes] == [("data.MODE", "hand", "batch")]
    assert running.up().counts == {"update": 1, "same": 4}


def test_what_the_program_forgot_is_pruned_with_dependents_first(running: Lab) -> None:
    service = {"image": running.image, "replicas": 0, "port": 8080, **SERVE}
    both = {"web": {**service, "replicas": 1}, "extra": service}
    assert running.up(services=both).counts == {"create": 4, "same": 5}
    deleted = [it for it in running.preview().changes if it.operation is Operation.DELETE]
    assert {it.name.partition("/")[2] for it in deleted} == {"extra", "extra-key", "extra-settings"}
    assert running.up().counts == {"same": 5, "delete": 4}
    gone = [event for event in running.events if event.operation is Operation.DELETE]
    kinds = [event.type.rpartition(":")[2] for event in gone if event.status is Status.DONE]
    assert kinds[:2] == ["Service", "Deployment"]
    assert sorted(kinds[2:]) == ["ConfigMap", "Secret"]


def test_an_object_of_somebody_else_is_not_taken_over(running: Lab) -> None:
    cluster = Cluster(kubeconfig=str(KUBECONFIG), context=NODE_NAME)
    foreign = {"metadata": {"name": "extra-settings"}, "data": {"MODE": "theirs"}}
    cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", body=foreign)
    service = {"image": running.image, "replicas": 1, "port": 8080, **SERVE}
    refused = f"ConfigMap/{NAMESPACE}/extra-settings exists already and was not made by this stack"
    with pytest.raises(EngineError, match=refused):
        running.preview(services={"web": service, "extra": service})
    with pytest.raises(EngineError, match=refused):
        running.up(services={"web": service, "extra": service})
    assert (
        running.get("/apis/apps/v1/namespaces/{namespace}/deployments/extra") is None
    )  # nothing was applied
    cluster.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/extra-settings")


LAST_WORDS = "raise SystemExit('the digest does not match')"
FAILING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an image that is not there": (
        {"image": "maas.invalid/none:1"},
        ["is not ready after", "maas.invalid/none:1", "BackOff"],
    ),
    "a container that crashes": (
        {"command": ["/usr/bin/python3", "-c", LAST_WORDS]},
        ["web exited with 1 (Error), 3 restarts", "| the digest does not match"],
    ),
    "a container that never gets ready": (
        {
            "container": {
                "readiness_probe": {"http_get": {"path": "/no", "port": 8080}, "period_seconds": 1}
            },
            "deployment": {"progress_deadline_seconds": 5},
        },
        ["no progress for 5 s", "web running but not ready", "Unhealthy: Readiness probe failed", "GET /no"],
    ),
    "a pod that fits nowhere": (
        {
            "pod": {"node_selector": {"no": "where"}},
            "metadata": {"annotations": {"pulumi.com/timeoutSeconds": "3"}},
        },
        ["is not ready after 3 s", "Unschedulable: 0/"],
    ),
    "what cannot be changed in place": (
        {"deployment": {"selector": {"match_labels": {"app": "other"}}}},
        ["field is immutable", f"delete Deployment/{NAMESPACE}/web"],
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_failure_says_why_in_the_containers_own_words_and_the_old_pods_go_on(
    running: Lab, case: str
) -> None:
    changes, expected = FAILING[case]
    with pytest.raises(EngineError) as caught:
        running.up(**changes)
    for text in expected:
        assert text in str(caught.value)
    assert "Traceback" not in str(caught.value)
    (failed,) = [event for event in running.events if event.status is Status.FAILED]
    assert failed.name == "web-deployment"
    deployment = running.get(DEPLOYMENT)
    assert deployment is not None
    assert deployment["status"]["availableReplicas"] == 1


def test_an_error_of_the_api_server_does_not_quote_a_secret(running: Lab) -> None:
    with pytest.raises(EngineError, match="web-key") as caught:
        running.up(key={"not": "a-string-but-secret"})
    assert not re.search("a-string-but-secret", str(caught.value))


@pytest.mark.parametrize("forget", [False, True], ids=["with its record", "without its record"])
def test_destroy_leaves_nothing(running: Lab, forget: bool) -> None:
    if forget:
        (running.directory / "sample.dev.json").unlink()
    assert running.engine().destroy(ignore).counts == {"delete": 5}
    assert running.get("/api/v1/namespaces/{namespace}") is None
    assert running.preview().counts == {"create": 5}
    assert running.engine().destroy(ignore).counts == {}
