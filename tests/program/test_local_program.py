"""The program of the `local` target, evaluated whole in both modes, with no cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.evaluate import Child, evaluate
from engine.plan import UNKNOWN, EngineError, Plan, Resource
from engine.program import Program

ROOT = Path(__file__).parents[2]
URN = "urn:pulumi:local::model-serving::"
PROVIDER = f"{URN}maas:kubernetes:Cluster$pulumi:providers:kubernetes::cluster-provider"
SERVICE = "maas:serving:ModelService"
DIGEST = 64 * "a"
FACTS: dict[str, Any] = {
    "kubeContext": "maas",
    "imageRegistry": "maas.local",
    "modelStore": "file:///srv/the%20models",
    "images": {
        "serving_image": f"maas.local/serving_image@sha256:{DIGEST}",
        "examples/flask": f"maas.local/flask@sha256:{DIGEST}",
    },
}


@pytest.fixture(scope="module", params=[True, False], ids=["preview", "update"])
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return run(tmp_path_factory.mktemp("stack"), dry_run=request.param)


def run(folder: Path, *, dry_run: bool, changes: Mapping[str, Any] | None = None) -> Plan:
    """The committed stack, with facts of a machine; a change of None takes a key away."""
    stack_file = yaml.safe_load((ROOT / "stacks" / "Pulumi.local.yaml").read_text())
    values = stack_file["config"] | {"model-serving:local": FACTS} | dict(changes or {})
    file = folder / "Pulumi.local.yaml"
    file.write_text(yaml.safe_dump({"config": {k: v for k, v in values.items() if v is not None}}))
    with Child(Program(directory=ROOT, project="model-serving", stack="local", config_file=file)) as child:
        return evaluate(child, dry_run=dry_run)


def by_urn(plan: Plan) -> dict[str, Resource]:
    return {resource.urn.removeprefix(URN): resource for resource in plan.resources}


def only(plan: Plan, name: str) -> Resource:
    (resource,) = [resource for resource in plan.resources if resource.name == name]
    return resource


def test_the_program_declares_exactly_these_resources(plan: Plan) -> None:
    services = {
        urn
        for name in ("iris", "flask-iris")
        for urn in (
            f"{SERVICE}::{name}",
            f"{SERVICE}$kubernetes:core/v1:ServiceAccount::{name}-account",
            f"{SERVICE}$kubernetes:networking.k8s.io/v1:NetworkPolicy::{name}-network-policy",
            f"{SERVICE}$kubernetes:apps/v1:Deployment::{name}-deployment",
            f"{SERVICE}$kubernetes:core/v1:Service::{name}-service",
            f"{SERVICE}$kubernetes:autoscaling/v2:HorizontalPodAutoscaler::{name}-autoscaler",
            f"{SERVICE}$kubernetes:policy/v1:PodDisruptionBudget::{name}-disruption-budget",
        )
    }
    assert set(by_urn(plan)) == services | {
        "pulumi:pulumi:Stack::model-serving-local",
        "maas:kubernetes:Cluster::cluster",
        "maas:kubernetes:Cluster$pulumi:providers:kubernetes::cluster-provider",
        "maas:storage:ModelStore::model-store",
        "maas:storage:ModelStore$kubernetes:core/v1:PersistentVolume::model-store-volume",
        "maas:storage:ModelStore$kubernetes:core/v1:PersistentVolumeClaim::model-store-claim",
        "maas:registry:ImageRegistry::image-registry",
        "kubernetes:core/v1:Namespace::namespace",
    }


def test_every_kubernetes_object_has_the_explicit_provider_and_an_explicit_name(plan: Plan) -> None:
    objects = [resource for resource in plan.resources if resource.type.startswith("kubernetes:")]
    assert {resource.provider for resource in objects} == {PROVIDER}
    assert all(resource.inputs["metadata"]["name"] for resource in objects)
    provider = by_urn(plan)[PROVIDER.removeprefix(URN)]
    assert provider.inputs == {"context": "maas", "clusterIdentifier": "maas"}


def test_the_set_of_exports_is_a_contract(plan: Plan) -> None:
    iris = yaml.safe_load((ROOT / "stacks" / "Pulumi.local.yaml").read_text())["config"]
    assert plan.outputs == {
        "endpointUrl": "http://127.0.0.1:30080",
        "services": {
            "iris": {
                "url": "http://127.0.0.1:30080",
                "image": FACTS["images"]["serving_image"],
                "model": iris["model-serving:services"]["iris"]["model"],
            },
            "flask-iris": {"url": "http://127.0.0.1:30081", "image": FACTS["images"]["examples/flask"]},
        },
        "modelStore": FACTS["modelStore"],
        "imageRegistry": "maas.local",
        "clusterName": "maas",
    }


def test_each_object_waits_for_what_it_needs(plan: Plan) -> None:
    namespace = only(plan, "namespace").urn
    for resource in plan.resources:
        if "namespace" in resource.inputs.get("metadata", {}):
            assert namespace in resource.dependencies
    deployment = only(plan, "iris-deployment")
    assert only(plan, "iris-account").urn in deployment.dependencies
    assert only(plan, "model-store-claim").urn in deployment.dependencies
    assert only(plan, "model-store-volume").urn in only(plan, "model-store-claim").dependencies
    assert deployment.urn in only(plan, "iris-autoscaler").dependencies


def test_a_store_in_a_directory_is_mounted(plan: Plan) -> None:
    volume = only(plan, "model-store-volume").inputs["spec"]
    assert volume["hostPath"]["path"] == "/srv/the models"
    assert only(plan, "model-store-claim").inputs["spec"]["volumeName"] == "model-serving-local-models"


def test_a_store_with_a_url_is_downloaded_from(tmp_path: Path) -> None:
    remote = FACTS | {"modelStore": "https://models.example:8443/store"}
    downloaded = run(tmp_path, dry_run=True, changes={"model-serving:local": remote})
    assert not [resource for resource in downloaded.resources if "PersistentVolume" in resource.type]
    (container,) = only(downloaded, "iris-deployment").inputs["spec"]["template"]["spec"]["containers"]
    uri = "https://models.example:8443/store/models/iris/1"
    assert {"name": "MODEL_URI", "value": uri} in container["env"]
    (rule,) = only(downloaded, "iris-network-policy").inputs["spec"]["egress"]
    assert {"protocol": "TCP", "port": 8443} in rule["ports"]


def test_an_image_that_is_yet_to_be_built_is_unknown_in_a_preview(tmp_path: Path) -> None:
    plan = run(tmp_path, dry_run=True, changes={"model-serving:local": FACTS | {"images": {}}})
    (container,) = only(plan, "flask-iris-deployment").inputs["spec"]["template"]["spec"]["containers"]
    assert container["image"] == UNKNOWN


def test_an_update_without_the_built_images_stops_and_names_them_all(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run(tmp_path, dry_run=False, changes={"model-serving:local": FACTS | {"images": {}}})
    message = str(caught.value)
    assert message.startswith(
        "2 problems in the configuration:\n  model-serving:local.images.examples/flask is missing;"
    )
    assert "\n  model-serving:local.images.serving_image is missing;" in message
    assert "run `maas up`, which builds it" in message
    assert "Traceback" not in message


def test_a_stack_without_facts_says_who_fills_them_in(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model-serving:local is missing; .* run `maas up`"):
        run(tmp_path, dry_run=True, changes={"model-serving:local": None})


def test_all_mistakes_of_a_stack_file_reach_the_user_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run(tmp_path, dry_run=True, changes={"model-serving:posture": "prod", "gcp:project": "x"})
    assert [line.split()[0] for line in str(caught.value).splitlines()] == [
        "2",
        "gcp:project",
        "model-serving:posture",
    ]


def test_without_a_node_port_nothing_is_published(tmp_path: Path) -> None:
    services = {
        "scorer": {
            "image": f"registry.example/scorer@sha256:{DIGEST}",
            "port": 8080,
            "health": {"ready": "/healthz", "live": "/livez"},
        }
    }
    plan = run(tmp_path, dry_run=True, changes={"model-serving:services": services})
    assert plan.outputs["endpointUrl"] == ""
    assert plan.outputs["services"]["scorer"]["url"] == "http://scorer.model-serving-local.svc"
