"""Rules that the rendered Kubernetes objects keep, checked on chosen paths."""

from __future__ import annotations

from typing import Any

import pytest

from infra import config, manifests
from infra.config import Health, Model, Replicas, Resources, SecretRef, Service
from infra.vocabulary import RESERVED_ENV

POSTURE = config.POSTURES[config.Posture.DEVELOPMENT]
NAMESPACE = "model-serving-local"

MODEL = Service(
    name="iris",
    model=Model(name="iris", version="2.0-", sha256=64 * "a"),
    port=8080,
    health=Health(ready="/v2/health/ready", live="/v2/health/live"),
    replicas=Replicas(min=2, max=4),
    resources=Resources(cpu="100m", memory="320Mi"),
    node_port=30080,
)
APPLICATION = Service(
    name="scorer",
    image="registry.example/scorer@sha256:" + 64 * "b",
    port=9000,
    health=Health(ready="/healthz", live="/livez"),
    env={"MODE": "batch"},
    secrets={"DB_URL": SecretRef(name="scorer-db", key="url")},
    command=("gunicorn", "app"),
    replicas=Replicas(min=1, max=1),
    resources=Resources(cpu="1.5", memory="2Gi", gpu=1),
)
SERVICES = pytest.mark.parametrize("service", [MODEL, APPLICATION], ids=lambda service: service.name)


def deployment(service: Service, *, claim: str | None = "models") -> dict[str, Any]:
    return manifests.deployment(
        service,
        namespace=NAMESPACE,
        service_account=service.name,
        image="image@sha256:c",
        model_uri="s3://models/models/iris/2.0-",
        model_claim=claim,
        posture=POSTURE,
    )


def pod(service: Service, *, claim: str | None = "models") -> dict[str, Any]:
    spec: dict[str, Any] = deployment(service, claim=claim)["spec"]["template"]["spec"]
    return spec


def container(service: Service, *, claim: str | None = "models") -> dict[str, Any]:
    (only,) = pod(service, claim=claim)["containers"]
    assert isinstance(only, dict)
    return only


def environment(service: Service, *, claim: str | None = "models") -> dict[str, Any]:
    return {entry["name"]: entry for entry in container(service, claim=claim)["env"]}


def every_object(service: Service) -> list[dict[str, Any]]:
    return [
        deployment(service),
        manifests.service_account(service, namespace=NAMESPACE),
        manifests.service(service, namespace=NAMESPACE),
        manifests.autoscaler(service, namespace=NAMESPACE, deployment=service.name, posture=POSTURE),
        manifests.disruption_budget(service, namespace=NAMESPACE),
        manifests.network_policy(service, namespace=NAMESPACE, model_port=None),
    ]


@SERVICES
def test_every_object_has_an_explicit_name_and_the_common_labels(service: Service) -> None:
    for rendered in every_object(service):
        metadata = rendered["metadata"]
        assert (metadata["name"], metadata["namespace"]) == (service.name, NAMESPACE)
        assert metadata["labels"]["app.kubernetes.io/name"] == service.name
        assert metadata["labels"]["app.kubernetes.io/instance"] == NAMESPACE
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "model-serving"


@SERVICES
def test_selectors_hold_only_labels_that_never_change(service: Service) -> None:
    stable = {"app.kubernetes.io/name": service.name, "app.kubernetes.io/instance": NAMESPACE}
    spec = deployment(service)["spec"]
    assert spec["selector"]["matchLabels"] == stable
    assert spec["template"]["metadata"]["labels"].items() >= stable.items()
    assert manifests.service(service, namespace=NAMESPACE)["spec"]["selector"] == stable
    budget = manifests.disruption_budget(service, namespace=NAMESPACE)["spec"]
    assert budget["selector"]["matchLabels"] == stable
    policy = manifests.network_policy(service, namespace=NAMESPACE, model_port=None)["spec"]
    assert policy["podSelector"]["matchLabels"] == stable


def test_a_models_version_is_a_valid_label_on_its_deployment_alone() -> None:
    labels = [rendered["metadata"]["labels"] for rendered in every_object(MODEL)]
    assert [label.get("app.kubernetes.io/version") for label in labels] == ["2.0", *5 * [None]]


def test_the_namespace_enforces_the_restricted_standard() -> None:
    labels = manifests.namespace(NAMESPACE)["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


@SERVICES
def test_pods_meet_the_restricted_pod_security_standard(service: Service) -> None:
    spec = pod(service)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["runAsGroup"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container(service)["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    assert {kind for volume in spec["volumes"] for kind in volume} <= {
        "name",
        "emptyDir",
        "persistentVolumeClaim",
    }
    assert all("hostPort" not in port for port in container(service)["ports"])


@SERVICES
def test_no_token_of_the_kubernetes_api_is_mounted(service: Service) -> None:
    assert pod(service)["automountServiceAccountToken"] is False
    assert pod(service)["serviceAccountName"] == service.name
    account = manifests.service_account(service, namespace=NAMESPACE)
    assert account["automount_service_account_token"] is False


@SERVICES
def test_replicas_are_the_autoscalers(service: Service) -> None:
    assert "replicas" not in deployment(service)["spec"]
    spec = manifests.autoscaler(service, namespace=NAMESPACE, deployment="d", posture=POSTURE)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (service.replicas.min, service.replicas.max)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    assert [metric["resource"]["name"] for metric in spec["metrics"]] == ["cpu"]


@pytest.mark.parametrize("posture", config.POSTURES.values())
def test_scaling_down_waits_longer_than_a_start_takes(posture: config.PostureDefaults) -> None:
    spec = manifests.autoscaler(MODEL, namespace=NAMESPACE, deployment="d", posture=posture)["spec"]
    window = spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
    assert window > manifests.START_SECONDS
    assert window >= posture.progress_deadline_seconds


@SERVICES
def test_a_rollout_never_takes_a_ready_replica_away_first(service: Service) -> None:
    spec = deployment(service)["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    assert spec["progressDeadlineSeconds"] == POSTURE.progress_deadline_seconds
    budget = manifests.disruption_budget(service, namespace=NAMESPACE)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@SERVICES
def test_only_readiness_asks_about_the_model(service: Service) -> None:
    probes = container(service)
    for kind, path in (
        ("startupProbe", service.health.live),
        ("livenessProbe", service.health.live),
        ("readinessProbe", service.health.ready),
    ):
        assert probes[kind]["httpGet"] == {"path": path, "port": "http"}
    startup = probes["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == manifests.START_SECONDS


@SERVICES
def test_a_stopping_pod_has_time_to_drain_and_to_finish_the_slowest_request(service: Service) -> None:
    needed = manifests.DRAIN_SECONDS + manifests.SLOWEST_REQUEST_SECONDS
    assert pod(service)["terminationGracePeriodSeconds"] > needed


def test_the_serving_image_drains_by_itself_and_any_other_by_a_pause_before_the_signal() -> None:
    assert "lifecycle" not in container(MODEL)
    assert environment(MODEL)["DRAIN_SECONDS"]["value"] == "5"
    assert container(APPLICATION)["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


@SERVICES
def test_replicas_spread_over_nodes_and_zones_where_they_can(service: Service) -> None:
    constraints = pod(service)["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in constraints] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert {constraint["whenUnsatisfiable"] for constraint in constraints} == {"ScheduleAnyway"}


@pytest.mark.parametrize(
    ("posture", "cpu", "request_", "limit"),
    [
        (config.Posture.DEVELOPMENT, "100m", "100m", "1"),
        (config.Posture.DEVELOPMENT, "0.25", "250m", "2500m"),
        (config.Posture.EPHEMERAL, "100m", "100m", "1"),
        (config.Posture.PRODUCTION, "1.5", "1500m", "3"),
        (config.Posture.PRODUCTION, "2000m", "2", "4"),
    ],
)
def test_cpu_is_limited_by_the_posture_and_memory_to_its_request(
    posture: config.Posture, cpu: str, request_: str, limit: str
) -> None:
    rendered = manifests.deployment(
        Service(
            name="iris",
            port=1,
            health=MODEL.health,
            replicas=MODEL.replicas,
            resources=Resources(cpu=cpu, memory="1Gi"),
        ),
        namespace=NAMESPACE,
        service_account="iris",
        image="image",
        model_uri=None,
        model_claim=None,
        posture=config.POSTURES[posture],
    )
    (only,) = rendered["spec"]["template"]["spec"]["containers"]
    assert only["resources"] == {
        "requests": {"cpu": request_, "memory": "1Gi"},
        "limits": {"cpu": limit, "memory": "1Gi"},
    }


def test_gpus_are_limits_and_absent_when_none_is_wanted() -> None:
    assert container(APPLICATION)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in container(MODEL)["resources"]["limits"]


def test_a_mounted_model_is_read_only_and_one_version() -> None:
    spec = pod(MODEL)
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in spec[
        "volumes"
    ]
    assert {
        "name": "model",
        "mountPath": "/mnt/models",
        "subPath": "models/iris/2.0-",
        "readOnly": True,
    } in container(MODEL)["volumeMounts"]
    assert environment(MODEL)["MODEL_URI"]["value"] == "/mnt/models"


def test_a_downloaded_model_has_room_and_no_mount() -> None:
    assert pod(MODEL, claim=None)["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "320Mi"}}]
    assert [mount["mountPath"] for mount in container(MODEL, claim=None)["volumeMounts"]] == ["/tmp"]
    assert environment(MODEL, claim=None)["MODEL_URI"]["value"] == "s3://models/models/iris/2.0-"


def test_an_application_gets_nothing_of_a_model() -> None:
    assert environment(APPLICATION).keys() == {"PORT", "MODE", "DB_URL"}
    assert environment(APPLICATION)["PORT"]["value"] == "9000"
    assert [mount["mountPath"] for mount in container(APPLICATION)["volumeMounts"]] == ["/tmp"]


def test_the_server_is_told_which_model_it_must_find() -> None:
    told = environment(MODEL)
    assert told["MODEL_NAME"]["value"] == "iris"
    assert told["MODEL_VERSION"]["value"] == "2.0-"
    assert told["MODEL_SHA256"]["value"] == 64 * "a"
    assert told["AIP_HTTP_PORT"]["value"] == "8080"


def test_no_variable_of_the_platform_can_be_set_by_a_service() -> None:
    assert environment(MODEL).keys() | (environment(APPLICATION).keys() - {"MODE", "DB_URL"}) == RESERVED_ENV


def test_a_secret_is_a_reference() -> None:
    assert environment(APPLICATION)["DB_URL"] == {
        "name": "DB_URL",
        "valueFrom": {"secretKeyRef": {"name": "scorer-db", "key": "url"}},
    }


def test_a_command_replaces_the_entrypoint_only_where_there_is_one() -> None:
    assert container(APPLICATION)["command"] == ["gunicorn", "app"]
    assert "command" not in container(MODEL)


def test_a_service_is_published_only_with_a_node_port() -> None:
    published = manifests.service(MODEL, namespace=NAMESPACE)["spec"]
    internal = manifests.service(APPLICATION, namespace=NAMESPACE)["spec"]
    assert (published["type"], internal["type"]) == ("NodePort", "ClusterIP")
    assert published["ports"][0]["nodePort"] == 30080
    assert "nodePort" not in internal["ports"][0]
    for spec in (published, internal):
        assert (spec["ports"][0]["port"], spec["ports"][0]["targetPort"]) == (80, "http")


def test_a_model_server_reaches_names_and_its_store_and_nothing_else() -> None:
    names = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    mounted = manifests.network_policy(MODEL, namespace=NAMESPACE, model_port=None)["spec"]
    assert mounted["policyTypes"] == ["Ingress", "Egress"]
    assert mounted["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8080}]}]
    assert mounted["egress"] == [{"ports": names}]
    downloaded = manifests.network_policy(MODEL, namespace=NAMESPACE, model_port=9000)["spec"]
    assert downloaded["egress"] == [{"ports": [*names, {"protocol": "TCP", "port": 9000}]}]


def test_an_applications_way_out_is_its_own() -> None:
    spec = manifests.network_policy(APPLICATION, namespace=NAMESPACE, model_port=9000)["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert "egress" not in spec


def test_the_model_volume_is_bound_to_one_claim_and_outlives_it() -> None:
    volume = manifests.model_volume("v", path="/srv/models", claim="models", claim_namespace=NAMESPACE)[
        "spec"
    ]
    assert volume["hostPath"] == {"path": "/srv/models", "type": "Directory"}
    assert volume["accessModes"] == ["ReadOnlyMany"]
    assert volume["persistentVolumeReclaimPolicy"] == "Retain"
    assert (volume["claimRef"]["namespace"], volume["claimRef"]["name"]) == (NAMESPACE, "models")
    claim = manifests.model_claim("models", namespace=NAMESPACE, volume="v")["spec"]
    assert (claim["volumeName"], claim["accessModes"]) == ("v", ["ReadOnlyMany"])
    assert volume["storageClassName"] == claim["storageClassName"] == ""
