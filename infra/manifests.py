"""Renders the Kubernetes objects of a stack. Pure; probes, limits, security contexts and labels live here.

Each function gives the keyword arguments of one pulumi_kubernetes resource; below them it is Kubernetes' own
spelling. Every object has an explicit metadata.name: server-side apply knows an object by its name, and
Pulumi's random suffixes would give it another one under each engine.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pulumi import Input

    from infra.config import Health, Model, PostureDefaults, Service

Manifest = dict[str, Any]

NON_ROOT_ID: Final = 65532
"""User and group of every container; `nonroot` in distroless images."""

DRAIN_SECONDS: Final = 5
"""A stopping pod serves this long, until no node forwards to it any more."""

SLOWEST_REQUEST_SECONDS: Final = 30
"""A request that takes longer is cut off when its pod stops."""

START_SECONDS: Final = 120
"""Time for a process to answer its first liveness probe; a JVM with little CPU needs most of it."""

TARGET_CPU_PERCENT: Final = 70
"""Of the request. The rest is for the time that one more replica takes to start."""

MODEL_DIRECTORY: Final = "/mnt/models"
# A required field that means nothing for a directory: Kubernetes neither reserves nor limits it.
_NOMINAL_CAPACITY: Final = {"storage": "1Gi"}
_TEMPORARY_DIRECTORY: Final = "/tmp"  # noqa: S108 -- in the container, of its own


def namespace(name: str) -> Manifest:
    """The namespace of a stack; it refuses pods that fall short of the restricted Pod Security Standard."""
    levels = {
        f"pod-security.kubernetes.io/{mode}{suffix}": value
        for mode in ("enforce", "audit", "warn")
        # `latest`: the pods here are all rendered below, and a pinned minor would be one more number to age.
        for suffix, value in (("", "restricted"), ("-version", "latest"))
    }
    return {"metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "model-serving"} | levels}}


def model_volume(name: str, *, path: str, claim: str, claim_namespace: Input[str]) -> Manifest:
    """A directory of the node, for pods to read. The restricted standard forbids it inline in a pod."""
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "model-serving"}},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": _NOMINAL_CAPACITY,
            # No other claim, and no default class of the cluster, gets hold of the models.
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim_namespace,
                "name": claim,
            },
            "storageClassName": "",
            # `Directory`: a store that is missing is an error, not an empty directory made by the kubelet.
            "hostPath": {"path": path, "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }


def model_claim(name: str, *, namespace: Input[str], volume: Input[str]) -> Manifest:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "model-serving"},
        },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": _NOMINAL_CAPACITY},
            "storageClassName": "",
            "volumeName": volume,
        },
    }


def model_path(model: Model) -> str:
    """Where a version is in a model store."""
    return f"models/{model.name}/{model.version}"


def service_account(service: Service, *, namespace: Input[str]) -> Manifest:
    """An identity of the service's own, for the clouds to bind to. Nothing here calls the Kubernetes API."""
    return {"metadata": _metadata(service, namespace), "automount_service_account_token": False}


def deployment(
    service: Service,
    *,
    namespace: Input[str],
    service_account: Input[str],
    image: Input[str],
    model_uri: Input[str] | None,
    model_claim: Input[str] | None,
    posture: PostureDefaults,
) -> Manifest:
    """The pods of a service. A model is mounted when there is a claim, else downloaded from `model_uri`.

    spec.replicas is absent: it is the autoscaler's, and a value here would undo its work at every update
    (pulumi-kubernetes#2491). So a new Deployment starts with one replica, which the autoscaler raises to its
    minimum within seconds; the update is done when the first is ready.
    """
    labels = _labels(service, namespace)
    if service.model is not None:
        # Here alone, so that a new version changes one object. A label's value ends in a letter or a digit.
        labels["app.kubernetes.io/version"] = service.model.version.rstrip("._-")
    return {
        "metadata": _metadata(service, namespace) | {"labels": labels},
        "spec": {
            "selector": {"matchLabels": _selector(service, namespace)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": posture.progress_deadline_seconds,
            "revisionHistoryLimit": 3,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": service_account,
                    "automountServiceAccountToken": False,
                    # The variables of the namespace's Services could shadow an application's settings.
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": NON_ROOT_ID,
                        "runAsGroup": NON_ROOT_ID,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    # Drain, the slowest request, and as long again as a drain to exit.
                    "terminationGracePeriodSeconds": SLOWEST_REQUEST_SECONDS + 2 * DRAIN_SECONDS,
                    "topologySpreadConstraints": [
                        _spread(service, namespace, "kubernetes.io/hostname"),
                        _spread(service, namespace, "topology.kubernetes.io/zone"),
                    ],
                    "containers": [_container(service, image, model_uri, model_claim, posture)],
                    "volumes": _volumes(service, model_claim),
                },
            },
        },
    }


def service(service: Service, *, namespace: Input[str]) -> Manifest:
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}
    published = service.node_port is not None
    return {
        "metadata": _metadata(service, namespace),
        "spec": {
            "type": "NodePort" if published else "ClusterIP",
            "selector": _selector(service, namespace),
            "ports": [port | {"nodePort": service.node_port} if published else port],
        },
    }


def autoscaler(
    service: Service, *, namespace: Input[str], deployment: Input[str], posture: PostureDefaults
) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": TARGET_CPU_PERCENT}
    # A replica is given up only after longer than it takes to get it back, so that a lull costs no capacity.
    window = max(300, posture.progress_deadline_seconds)
    return {
        "metadata": _metadata(service, namespace),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": service.replicas.min,
            "maxReplicas": service.replicas.max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": window}},
        },
    }


def disruption_budget(service: Service, *, namespace: Input[str]) -> Manifest:
    return {
        "metadata": _metadata(service, namespace),
        "spec": {
            # Not minAvailable: with a single replica that would block every drain of a node.
            "maxUnavailable": 1,
            # A pod that was never ready (a refused model, say) must not block one either.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _selector(service, namespace)},
        },
    }


def network_policy(service: Service, *, namespace: Input[str], model_port: int | None) -> Manifest:
    """In: the service's port, from anywhere, as a node port's traffic comes with a node's address.

    Out: a model server resolves names and reads its store at `model_port`, nothing else. Of any other
    application nothing is known, so its way out stays open.
    """
    spec: Manifest = {
        "podSelector": {"matchLabels": _selector(service, namespace)},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": service.port}]}],
    }
    if service.model is not None:
        # To any address: a cluster's DNS may answer on a node's own, which no selector names.
        ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        if model_port is not None:
            ports.append({"protocol": "TCP", "port": model_port})
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": [{"ports": ports}]}
    return {"metadata": _metadata(service, namespace), "spec": spec}


def _container(
    service: Service,
    image: Input[str],
    model_uri: Input[str] | None,
    model_claim: Input[str] | None,
    posture: PostureDefaults,
) -> Manifest:
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": _TEMPORARY_DIRECTORY}]
    container: Manifest = {
        "name": "server",
        "image": image,
        "env": _environment(service, MODEL_DIRECTORY if model_claim is not None else model_uri),
        "ports": [{"name": "http", "containerPort": service.port, "protocol": "TCP"}],
        "resources": _resources(service, posture),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        # The last lines of the log are what `status` and `kubectl describe` give as the reason of a failure.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
        **_probes(service.health),
    }
    if service.command:
        container["command"] = list(service.command)
    if service.model is None:
        # The serving image drains by itself; many applications stop listening on SIGTERM at once.
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}}
    elif model_claim is not None:
        mounts.append(
            {
                "name": "model",
                "mountPath": MODEL_DIRECTORY,
                "subPath": model_path(service.model),
                "readOnly": True,
            }
        )
    return container


def _environment(service: Service, model_uri: Input[str] | None) -> list[Manifest]:
    platform: dict[str, Any] = {"PORT": str(service.port)}
    if service.model is not None:
        platform = {
            "AIP_HTTP_PORT": str(service.port),
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
            "MODEL_NAME": service.model.name,
            "MODEL_VERSION": service.model.version,
            "MODEL_SHA256": service.model.sha256,
            "MODEL_URI": model_uri,
        }
    plain = [{"name": name, "value": value} for name, value in (platform | dict(service.env)).items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}
        for name, reference in service.secrets.items()
    ]
    return plain + secret


def _probes(health: Health) -> Manifest:
    """Startup and liveness ask whether the process lives, readiness alone about the model.

    A model that loads slowly or is refused then keeps a pod out of service instead of restarting it for ever.
    """

    def probe(path: str, period_seconds: int, failures: int) -> Manifest:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period_seconds,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        }

    return {
        "startupProbe": probe(health.live, 1, START_SECONDS),
        "livenessProbe": probe(health.live, 10, 3),
        "readinessProbe": probe(health.ready, 2, 3),
    }


def _resources(service: Service, posture: PostureDefaults) -> Manifest:
    wanted = service.resources
    cpu = _millicores(wanted.cpu)
    limits = {"cpu": _cpu(cpu * posture.cpu_limit_factor), "memory": wanted.memory}
    if wanted.gpu:
        limits["nvidia.com/gpu"] = str(wanted.gpu)
    return {"requests": {"cpu": _cpu(cpu), "memory": wanted.memory}, "limits": limits}


def _millicores(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(Decimal(quantity) * 1000)


def _cpu(millicores: int) -> str:
    """As the API server writes it back, so that a comparison with the cluster sees no difference."""
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def _volumes(service: Service, model_claim: Input[str] | None) -> list[Manifest]:
    if service.model is None:
        return [_temporary("256Mi")]
    if model_claim is None:
        # The server downloads the model here. What is loaded must fit into memory, so its files fit as well.
        return [_temporary(service.resources.memory)]
    claim = {"claimName": model_claim, "readOnly": True}
    return [_temporary("256Mi"), {"name": "model", "persistentVolumeClaim": claim}]


def _temporary(size_limit: str) -> Manifest:
    # On disk: in memory it would count against the memory limit of the container.
    return {"name": "tmp", "emptyDir": {"sizeLimit": size_limit}}


def _spread(service: Service, namespace: Input[str], topology_key: str) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": topology_key,
        # A preference: one node, or one zone, must be able to run all replicas.
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _selector(service, namespace)},
        # Each revision is spread by itself; the pods that a rollout is about to remove do not count.
        "matchLabelKeys": ["pod-template-hash"],
    }


def _metadata(service: Service, namespace: Input[str]) -> Manifest:
    return {"name": service.name, "namespace": namespace, "labels": _labels(service, namespace)}


def _selector(service: Service, namespace: Input[str]) -> Manifest:
    """The labels that a Deployment's selector fixes for good, so only those that never change."""
    return {"app.kubernetes.io/name": service.name, "app.kubernetes.io/instance": namespace}


def _labels(service: Service, namespace: Input[str]) -> Manifest:
    return _selector(service, namespace) | {
        "app.kubernetes.io/part-of": "model-serving",
        "app.kubernetes.io/component": "application" if service.model is None else "model",
    }
