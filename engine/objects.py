"""Kubernetes objects as data: the kinds that are applied, differences, readiness, and what went wrong.

Pure functions over the API's JSON; cluster.py does the talking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.plan import SECRET, EngineError, PropertyChange

Object = dict[str, Any]

STACK_LABEL = "maas.dev/stack"
MANAGED_BY = {"app.kubernetes.io/managed-by": "maas"}


class UnreachableError(EngineError):
    """No cluster answers, or there is no such context."""


class RefusedError(EngineError):
    """The API server said no. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Kind:
    name: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def token(self) -> str:
        """Pulumi's type token."""
        group = "core/v1" if self.api_version == "v1" else self.api_version
        return f"kubernetes:{group}:{self.name}"

    def path(self, namespace: str = "", name: str = "") -> str:
        parts = ["api" if self.api_version == "v1" else "apis", self.api_version]
        parts += ["namespaces", namespace] if namespace else []
        return "/" + "/".join([*parts, self.plural, *([name] if name else [])])


# In the order of creation, as far as one kind can need another; deletion goes backwards. NetworkPolicy comes
# before what it protects.
KINDS = (
    Kind("Namespace", "v1", "namespaces", namespaced=False),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Kind("ServiceAccount", "v1", "serviceaccounts"),
    Kind("Role", "rbac.authorization.k8s.io/v1", "roles"),
    Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings"),
    Kind("Secret", "v1", "secrets"),
    Kind("ConfigMap", "v1", "configmaps"),
    Kind("PersistentVolume", "v1", "persistentvolumes", namespaced=False),
    Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
    Kind("Service", "v1", "services"),
    Kind("Deployment", "apps/v1", "deployments"),
    Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers"),
    Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
)
KIND_OF_TOKEN = {kind.token: kind for kind in KINDS}


@dataclass(frozen=True)
class Ref:
    """The identity of an object in a cluster."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def of(cls, kind: Kind, body: Mapping[str, Any]) -> Ref:
        metadata = body["metadata"]
        return cls(kind, metadata["namespace"] if kind.namespaced else "", metadata["name"])

    @property
    def path(self) -> str:
        return self.kind.path(self.namespace, self.name)

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind.name, self.namespace, self.name) if part)


def body_of(ref: Ref, inputs: Object, stack_label: str) -> Object:
    """What is sent to the API: the program's object with the engine's labels."""
    labels = {**(inputs["metadata"].get("labels") or {}), **MANAGED_BY, STACK_LABEL: stack_label}
    metadata = {**inputs["metadata"], "labels": labels}
    return {**inputs, "apiVersion": ref.kind.api_version, "kind": ref.kind.name, "metadata": metadata}


def keep_ignored(body: Object, live: Object, paths: Iterable[str]) -> None:
    """Pulumi's ignore_changes: each `spec.replicas` keeps the value it has in the cluster."""
    for path in paths:
        *parents, last = path.split(".")
        target: Any = body
        source: Any = live
        for key in parents:
            target = target.get(key) if isinstance(target, dict) else None
            source = source.get(key) if isinstance(source, dict) else None
        if isinstance(target, dict) and isinstance(source, dict):
            target.pop(last, None)
            target.update({last: source[last]} if last in source else {})


# Differences

_SERVER_METADATA = {"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"}
# What identifies an element of a list, as Kubernetes' own merge keys; the first that all have counts.
_MERGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "ports": ("containerPort", "port"),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
    "ownerReferences": ("uid",),
}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def without_noise(live: Object) -> Object:
    """The object without what the server and this engine add to every object."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _SERVER_METADATA}
    own = {*MANAGED_BY, STACK_LABEL}
    metadata["labels"] = {key: value for key, value in metadata.get("labels", {}).items() if key not in own}
    if not metadata["labels"]:
        del metadata["labels"]
    return {**{key: value for key, value in live.items() if key != "status"}, "metadata": metadata}


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """{path: leaf}. Elements of lists go by their merge key: inserting one does not change those after it."""
    flat: dict[str, Any] = {}
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            step = f".{key}" if _PLAIN_KEY.fullmatch(key) else f'["{key}"]'
            flat |= flatten(value, path + step if path else step.removeprefix("."))
    elif isinstance(tree, list) and tree:
        names = _element_names(re.split(r"[.\[]", path)[-1], tree)
        for name, value in zip(names, tree, strict=True):
            flat |= flatten(value, f"{path}[{name}]")
    elif path:
        flat[path] = tree
    return flat


def _element_names(field: str, elements: list[Any]) -> list[Any]:
    for key in (*_MERGE_KEYS.get(field, ()), "name"):
        names = [element.get(key) for element in elements if isinstance(element, dict)]
        if len(names) == len(elements) == len({str(name) for name in names}) and None not in names:
            return names
    return list(range(len(elements)))


def secret_paths(inputs: Mapping[str, Any]) -> frozenset[str]:
    """Paths of everything in a declared, masked object that must not be shown of the live one either."""
    paths = {path for path, leaf in flatten(inputs).items() if leaf == SECRET}
    return frozenset(paths | ({"data", "stringData"} if inputs.get("kind") == "Secret" else set()))


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], secrets: Iterable[str] = ()
) -> tuple[PropertyChange, ...]:
    """Property by property, between two flattened objects."""
    different = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return tuple(change(path, before.get(path), after.get(path), secrets) for path in sorted(different))


def change(path: str, old: Any, new: Any, secrets: Iterable[str]) -> PropertyChange:
    """One property, with what must not be shown hidden."""
    if any(path == secret or path.startswith((f"{secret}.", f"{secret}[")) for secret in secrets):
        old, new = (None if value is None else SECRET for value in (old, new))
    return PropertyChange(path=path, old=old, new=new)


# Readiness

# A pod in one of these for longer than the seconds will not get out of it by itself.
_HOPELESS_AFTER = {
    "InvalidImageName": 0,
    "ErrImageNeverPull": 0,
    "CreateContainerConfigError": 20,
    "CreateContainerError": 20,
    "ImagePullBackOff": 30,
}
_CRASHES_UNTIL_HOPELESS = 3


def waits_for(live: Object) -> str:
    """What is missing until the object can be used; empty when nothing is."""
    status = live.get("status") or {}
    match live["kind"]:
        case "Deployment":
            return _deployment_waits_for(live, status)
        case "PersistentVolumeClaim" if status.get("phase") != "Bound":
            return f"a volume ({status.get('phase', 'Pending')})"
        case "Service" if live["spec"].get("type") == "LoadBalancer":
            return "" if status.get("loadBalancer", {}).get("ingress") else "the load balancer's address"
    return ""


def _deployment_waits_for(live: Object, status: Object) -> str:
    wanted = live["spec"].get("replicas", 1)
    updated = status.get("updatedReplicas", 0)
    available = status.get("availableReplicas", 0)
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return "the deployment controller"
    if updated < wanted:
        return f"new pods: {updated} of {wanted} created"
    if available < wanted or status.get("unavailableReplicas"):
        return f"pods to become ready: {status.get('unavailableReplicas', wanted - available)} of {wanted}"
    if status.get("replicas", 0) > updated:
        return f"old pods to end: {status['replicas'] - updated}"
    return ""


def deployment_failure(live: Object, seconds: float) -> str:
    """Why the Deployment's own conditions say that waiting on is pointless; empty when they do not."""
    conditions = {item["type"]: item for item in (live.get("status") or {}).get("conditions", ())}
    progressing, failure = conditions.get("Progressing", {}), conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True" and seconds > 5:
        return f"{failure.get('reason')}: {failure.get('message')}"
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        return f"no progress for {live['spec'].get('progressDeadlineSeconds', 600)} s"
    return ""


@dataclass(frozen=True, kw_only=True)
class PodProblem:
    pod: str
    container: str
    reason: str
    hopeless: bool = False
    crashed: bool = False
    """Its last words are in the log of the previous run."""


def pod_problem(pod: Object, now: datetime | None = None) -> PodProblem | None:
    """The first thing that keeps a pod from being ready."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return None
    for container in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        state = container.get("state") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
        waiting = state.get("waiting") or {}
        if container.get("ready") or (state.get("terminated") or {}).get("exitCode") == 0:
            continue
        restarts = container.get("restartCount", 0)
        reason = waiting.get("reason", "")
        if ended:
            words = f"exited with {ended.get('exitCode')} ({ended.get('reason')})"
            words += f", {restarts} restarts" if restarts else ""
            words += f": {ended['message'].strip()}" if ended.get("message") else ""
        elif waiting:
            words = ": ".join(filter(None, (reason, waiting.get("message", ""))))
        else:
            words = "running but not ready"
        hopeless = reason in _HOPELESS_AFTER and _age(pod, now) >= _HOPELESS_AFTER[reason]
        hopeless = hopeless or (reason == "CrashLoopBackOff" and restarts >= _CRASHES_UNTIL_HOPELESS)
        return PodProblem(
            pod=name,
            container=container["name"],
            reason=words,
            hopeless=hopeless,
            crashed=bool(ended) and "terminated" not in state,
        )
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return PodProblem(
                pod=name, container="", reason=f"{condition.get('reason')}: {condition.get('message')}"
            )
    return None


def _age(pod: Object, now: datetime | None) -> float:
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return ((now or datetime.now(UTC)) - created).total_seconds()
