"""The Kubernetes API by raw paths, through the official client's transport and credentials.

Not the client's typed or dynamic API: an object must come back as it is, and discovery would cost a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException

from engine.objects import Kind, Object, Ref, RefusedError, UnreachableError

FIELD_MANAGER = "maas"
_APPLY = "application/apply-patch+yaml"
_SECONDS = (5, 60)  # to connect, to answer


class Cluster:
    def __init__(self, *, kubeconfig: str | None, context: str | None) -> None:
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
        except kubernetes.config.ConfigException as error:
            where = kubeconfig or "the default kubeconfig"
            raise UnreachableError(f"no cluster for context {context!r} in {where}: {error}") from None
        configuration.retries = urllib3.Retry(0)
        configuration.connection_pool_maxsize = 64
        self._host = configuration.host
        self._client = kubernetes.client.ApiClient(configuration)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> str:
        serialized = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json, */*", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*serialized, _request_timeout=_SECONDS)
            text: str = response.read().decode(errors="replace")  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise UnreachableError(f"the cluster at {self._host} does not answer: {error.reason}") from None
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"the cluster at {self._host} does not answer: {error}") from None
        if not 200 <= response.status < 300:
            raise RefusedError(response.status, _message(text) or f"HTTP {response.status}")
        return text

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Object | None:
        try:
            found: Object = json.loads(self.request("GET", path, query))
        except RefusedError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(self, kind: Kind, selector: str) -> list[Object]:
        """All objects of a kind, in every namespace, by label."""
        found = self.get(kind.path(), {"labelSelector": selector}) or {}
        # Items of a list come without their type.
        typed = {"apiVersion": kind.api_version, "kind": kind.name}
        return [{**item, **typed} for item in found.get("items", ())]

    def apply(self, ref: Ref, body: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply. Forced: what the program declares is the program's, whoever set it last."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        applied: Object = json.loads(self.request("PATCH", ref.path, query, json.dumps(body), _APPLY))
        return applied

    def delete(self, ref: Ref, uid: str) -> None:
        """Starts the deletion of this very object and of all it owns; one that is gone already is fine."""
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        try:
            self.request("DELETE", ref.path, body=options)
        except RefusedError as error:
            if error.status not in (404, 409):
                raise


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:500]
