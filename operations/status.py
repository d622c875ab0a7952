"""How the services of a stack are: what runs, how much of it is ready, and why not when it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from infra import naming
from infra.config import Settings

Object = dict[str, Any]


class Cluster(Protocol):
    """The Kubernetes API by raw paths; the engine's client is one."""

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Object | None: ...

    def request(self, method: str, path: str, query: Mapping[str, Any] | None = None) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Replicas that run the same thing: `what` is `model@version`, or the image."""

    what: str
    ready: int
    replicas: int


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """One service. During a rollout it serves two things; `problems` are the pods' own words."""

    name: str
    wanted: str
    serving: tuple[Serving, ...]
    desired_replicas: int
    url: str
    problems: tuple[str, ...]

    @property
    def well(self) -> bool:
        """All that should run is ready, and nothing else runs."""
        full = Serving(what=self.wanted, ready=self.desired_replicas, replicas=self.desired_replicas)
        return self.desired_replicas > 0 and self.serving == (full,)


def services(
    cluster: Cluster,
    settings: Settings,
    stack: str,
    *,
    urls: Mapping[str, str],
    problem_of: Callable[[Object], str | None],
) -> list[ServiceStatus]:
    """Every service of the stack file. `problem_of` says what keeps a pod from being ready."""
    namespace = naming.namespace(stack)
    found = []
    for name in settings.services:
        deployment = cluster.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        pods = [pod for pod in _pods(cluster, namespace, name) if "deletionTimestamp" not in pod["metadata"]]
        if deployment is None:
            problems: tuple[str, ...] = ("not deployed: ./maas up",)
        else:
            problems = tuple(filter(None, (_explain(cluster, pod, problem_of) for pod in pods)))
        spec = (deployment or {}).get("spec", {})
        found.append(
            ServiceStatus(
                name=name,
                wanted=_serves(spec["template"]["spec"]) if spec else "",
                serving=_serving(pods),
                desired_replicas=spec.get("replicas", 0),
                url=urls.get(name, ""),
                problems=problems,
            )
        )
    return found


def _serving(pods: list[Object]) -> tuple[Serving, ...]:
    """From the pods and not from the stack file, nor from the Deployment: both may be ahead of them."""
    ready_of: dict[str, list[bool]] = {}
    for pod in pods:
        conditions = pod.get("status", {}).get("conditions", ())
        ready = any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)
        ready_of.setdefault(_serves(pod["spec"]), []).append(ready)
    return tuple(
        Serving(what=what, ready=sum(ready), replicas=len(ready)) for what, ready in sorted(ready_of.items())
    )


def _serves(pod_spec: Object) -> str:
    container = pod_spec["containers"][0]
    environment = {item["name"]: item.get("value", "") for item in container.get("env", ())}
    if "MODEL_NAME" in environment:
        return f"{environment['MODEL_NAME']}@{environment['MODEL_VERSION']}"
    repository, _, digest = container["image"].partition("@sha256:")
    return f"{repository}@{digest[:12]}"


def _pods(cluster: Cluster, namespace: str, service: str) -> list[Object]:
    selector = {"labelSelector": f"app.kubernetes.io/name={service}"}
    listing = cluster.get(f"/api/v1/namespaces/{namespace}/pods", selector) or {}
    return list(listing.get("items", ()))


def _explain(cluster: Cluster, pod: Object, problem_of: Callable[[Object], str | None]) -> str | None:
    if not (problem := problem_of(pod)):
        return None
    return f"{pod['metadata']['name']}: {problem}" + _last_words(cluster, pod)


def _last_words(cluster: Cluster, pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    # Of a container that crashed, its last run's log says why; of one that waits for its model, this run's.
    for previous in ("true", "false"):
        if previous == "true" and not any(status.get("restartCount") for status in statuses):
            continue
        text = logs(cluster, pod, lines=3, previous=previous)
        if text:
            return "\n" + text
    return ""


def logs(cluster: Cluster, pod: Object, *, lines: int, previous: str = "false") -> str:
    """The end of a pod's log; empty when there is none."""
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    try:
        return cluster.request("GET", path, {"tailLines": lines, "previous": previous}).strip()
    except RuntimeError:  # nothing was started yet, or its log is gone
        return ""


def service_logs(cluster: Cluster, stack: str, service: str, *, lines: int) -> list[tuple[str, str]]:
    """(pod, end of its log) of every pod of the service."""
    pods = _pods(cluster, naming.namespace(stack), service)
    return [(pod["metadata"]["name"], logs(cluster, pod, lines=lines)) for pod in pods]
