"""Kubernetes objects as data: differences, readiness, and reasons."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine import objects
from engine.objects import KIND_OF_TOKEN, KINDS, Ref
from engine.plan import SECRET, PropertyChange

DEPLOYMENT = KIND_OF_TOKEN["kubernetes:apps/v1:Deployment"]


def container(name: str, **fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, **fields}]}}


@pytest.mark.parametrize(
    ("token", "path"),
    [
        ("kubernetes:core/v1:Namespace", "/api/v1/namespaces/n"),
        ("kubernetes:core/v1:Secret", "/api/v1/namespaces/ns/secrets/n"),
        ("kubernetes:apps/v1:Deployment", "/apis/apps/v1/namespaces/ns/deployments/n"),
        ("kubernetes:core/v1:PersistentVolume", "/api/v1/persistentvolumes/n"),
        (
            "kubernetes:networking.k8s.io/v1:NetworkPolicy",
            "/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies/n",
        ),
        (
            "kubernetes:autoscaling/v2:HorizontalPodAutoscaler",
            "/apis/autoscaling/v2/namespaces/ns/horizontalpodautoscalers/n",
        ),
    ],
)
def test_a_type_token_leads_to_the_api_path(token: str, path: str) -> None:
    assert Ref.of(KIND_OF_TOKEN[token], {"metadata": {"name": "n", "namespace": "ns"}}).path == path


def test_the_list_of_kinds_is_closed() -> None:
    assert {kind.name for kind in KINDS} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Namespace", "NetworkPolicy",
        "PersistentVolume", "PersistentVolumeClaim", "PodDisruptionBudget", "Role", "RoleBinding",
        "Secret", "Service", "ServiceAccount",
    }  # fmt: skip


def test_the_engine_labels_what_it_applies_and_does_not_count_that_as_a_change() -> None:
    declared = {"metadata": {"name": "web", "namespace": "apps", "labels": {"app": "web"}}, "spec": {}}
    body = objects.body_of(Ref.of(DEPLOYMENT, declared), declared, "sample.dev")
    assert body["metadata"]["labels"] == {
        "app": "web",
        "app.kubernetes.io/managed-by": "maas",
        "maas.dev/stack": "sample.dev",
    }
    live = {**body, "status": {"replicas": 1}}
    live["metadata"] = {**body["metadata"], "uid": "u", "resourceVersion": "1", "generation": 2}
    assert objects.without_noise(live) == {**declared, "apiVersion": "apps/v1", "kind": "Deployment"}


def test_an_object_without_labels_of_its_own_has_none() -> None:
    live = {"metadata": {"name": "x", "labels": {"maas.dev/stack": "a.b"}}}
    assert objects.without_noise(live) == {"metadata": {"name": "x"}}


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {}, [("a", 1, None)]),
        ({}, {"a": {}}, [("a", None, {})]),
        ({"a": {"b/c": 1}}, {"a": {"b/c": 2}}, [('a["b/c"]', 1, 2)]),
        ({"args": ["x", "y"]}, {"args": ["x", "z"]}, [("args[1]", "y", "z")]),
        (
            container("serve", image="a", env=[{"name": "A", "value": "1"}]),
            container("serve", image="b", env=[{"name": "A", "value": "1"}]),
            [("spec.containers[serve].image", "a", "b")],
        ),
        (
            {"env": [{"name": "B", "value": "2"}]},
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            [("env[A].name", None, "A"), ("env[A].value", None, "1")],
        ),
        (
            {"ports": [{"containerPort": 80, "protocol": "TCP"}]},
            {"ports": [{"containerPort": 80, "protocol": "UDP"}]},
            [("ports[80].protocol", "TCP", "UDP")],
        ),
        (
            {"volumeMounts": [{"mountPath": "/tmp", "name": "t"}, {"mountPath": "/m", "name": "t"}]},
            {"volumeMounts": [{"mountPath": "/tmp", "name": "t"}]},
            [("volumeMounts[/m].mountPath", "/m", None), ("volumeMounts[/m].name", "t", None)],
        ),
    ],
)
def test_objects_differ_property_by_property(
    old: dict[str, Any], new: dict[str, Any], changes: list[tuple[str, Any, Any]]
) -> None:
    before, after = (objects.flatten(it) if it else {} for it in (old, new))
    assert objects.changes(before, after) == tuple(
        PropertyChange(path=path, old=was, new=now) for path, was, now in changes
    )


def test_the_data_of_a_secret_is_never_shown() -> None:
    declared = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": SECRET}
    before = objects.flatten({"data": {"key": "aHVudGVyMg=="}})
    after = objects.flatten({"data": {"key": "bmV3"}, "stringData": {"new": "x"}})
    assert objects.changes(before, after, objects.secret_paths(declared)) == (
        PropertyChange(path="data.key", old=SECRET, new=SECRET),
        PropertyChange(path="stringData.new", old=None, new=SECRET),
    )


def test_a_secret_in_the_environment_is_hidden_on_both_sides() -> None:
    declared = container("serve", env=[{"name": "KEY", "value": SECRET}, {"name": "MODE", "value": "x"}])
    before, after = (
        objects.flatten(
            container("serve", env=[{"name": "KEY", "value": key}, {"name": "MODE", "value": mode}])
        )
        for key, mode in (("old-key", "x"), ("new-key", "y"))
    )
    changes = objects.changes(before, after, objects.secret_paths(declared))
    assert [(it.path, it.old, it.new) for it in changes] == [
        ("spec.containers[serve].env[KEY].value", SECRET, SECRET),
        ("spec.containers[serve].env[MODE].value", "x", "y"),
    ]


def test_ignore_changes_keeps_the_clusters_value() -> None:
    body = {"spec": {"replicas": 1, "paused": True, "strategy": {}}}
    objects.keep_ignored(body, {"spec": {"replicas": 5}}, ["spec.replicas", "spec.paused", "spec.no.such"])
    assert body == {"spec": {"replicas": 5, "strategy": {}}}


def deployment(spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    ready = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    return {
        "kind": "Deployment",
        "metadata": {"generation": 2},
        "spec": {"replicas": 2, **(spec or {})},
        "status": {**ready, **status},
    }


@pytest.mark.parametrize(
    ("live", "missing"),
    [
        (deployment(), ""),
        (deployment(observedGeneration=1), "the deployment controller"),
        (deployment(updatedReplicas=1), "new pods: 1 of 2 created"),
        (deployment(availableReplicas=1), "pods to become ready: 1 of 2"),
        (deployment(replicas=3, unavailableReplicas=1), "pods to become ready: 1 of 2"),
        (deployment(replicas=3), "old pods to end: 1"),
        ({"kind": "Deployment", "metadata": {"generation": 1}, "spec": {}}, "the deployment controller"),
        ({"kind": "PersistentVolumeClaim", "spec": {}, "status": {"phase": "Bound"}}, ""),
        ({"kind": "PersistentVolumeClaim", "spec": {}}, "a volume (Pending)"),
        ({"kind": "Service", "spec": {"type": "NodePort"}}, ""),
        ({"kind": "Service", "spec": {"type": "LoadBalancer"}, "status": {}}, "the load balancer's address"),
        ({"kind": "ConfigMap"}, ""),
    ],
)
def test_an_object_says_what_it_waits_for(live: dict[str, Any], missing: str) -> None:
    assert objects.waits_for(live) == missing


@pytest.mark.parametrize(
    ("condition", "seconds", "why"),
    [
        ({"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}, 60, ""),
        (
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
            1,
            "no progress for 7 s",
        ),
        (
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "forbidden"},
            1,
            "",
        ),
        (
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "forbidden"},
            6,
            "FailedCreate: forbidden",
        ),
    ],
)
def test_a_deployment_says_when_waiting_is_pointless(
    condition: dict[str, Any], seconds: float, why: str
) -> None:
    live = deployment({"progressDeadlineSeconds": 7}, conditions=[condition])
    assert objects.deployment_failure(live, seconds) == why


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(*, age: int = 60, conditions: Any = (), deleting: bool = False, **status: Any) -> dict[str, Any]:
    created = (NOW - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    metadata = {"name": "web-1", "creationTimestamp": created}
    if deleting:
        metadata["deletionTimestamp"] = created
    statuses = [{"name": "web", "ready": False, "restartCount": 0, **status}] if status else []
    return {"metadata": metadata, "status": {"conditions": list(conditions), "containerStatuses": statuses}}


def waiting(reason: str, message: str = "why") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


CRASH = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no model\n"}}


@pytest.mark.parametrize(
    ("live", "reason", "hopeless"),
    [
        (pod(state=waiting("InvalidImageName"), age=0), "InvalidImageName: why", True),
        (pod(state=waiting("ImagePullBackOff"), age=5), "ImagePullBackOff: why", False),
        (pod(state=waiting("ImagePullBackOff"), age=31), "ImagePullBackOff: why", True),
        (pod(state=waiting("ContainerCreating", "")), "ContainerCreating", False),
        (
            pod(state=waiting("CrashLoopBackOff"), lastState=CRASH, restartCount=2),
            "exited with 1 (Error), 2 restarts: no model",
            False,
        ),
        (
            pod(state=waiting("CrashLoopBackOff"), lastState=CRASH, restartCount=3),
            "exited with 1 (Error), 3 restarts: no model",
            True,
        ),
        (pod(state={"running": {}}), "running but not ready", False),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "R", "message": "no cpu"}]),
            "R: no cpu",
            False,
        ),
    ],
)
def test_a_pod_gives_its_own_reason_and_whether_there_is_hope(
    live: dict[str, Any], reason: str, hopeless: bool
) -> None:
    problem = objects.pod_problem(live, NOW)
    assert problem is not None
    assert (problem.reason, problem.hopeless) == (reason, hopeless)


@pytest.mark.parametrize(
    "live",
    [
        pod(ready=True, state={"running": {}}),
        pod(state={"terminated": {"exitCode": 0}}),
        pod(state=waiting("CrashLoopBackOff"), deleting=True),
        pod(),
    ],
)
def test_a_pod_without_a_problem_has_none(live: dict[str, Any]) -> None:
    assert objects.pod_problem(live, NOW) is None
