"""One preview, update or deletion of one stack in one cluster, object by object.

The monitor calls `Session.preview` or `Session.apply`, from many threads, when the program registers a
resource. The SDK has by then waited for everything that the resource depends on.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine import objects, values
from engine.objects import KIND_OF_TOKEN, KINDS, STACK_LABEL, Object, Ref, RefusedError, UnreachableError
from engine.plan import (
    SECRET,
    UNKNOWN,
    EngineError,
    Operation,
    PropertyChange,
    Report,
    Resource,
    ResourceChange,
    ResourceEvent,
    Status,
)
from engine.program import Outcome, Program, Registration
from engine.state import Record

if TYPE_CHECKING:
    from engine.cluster import Cluster

PROVIDER = "pulumi:providers:kubernetes"
_READY_SECONDS = 600.0  # what pulumi-kubernetes waits
_GONE_SECONDS = 300.0
_POLL_SECONDS = 0.3
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_REVISION = "deployment.kubernetes.io/revision"


class Session:
    def __init__(self, program: Program, record: Record | None, report: Report | None = None) -> None:
        self.changes: list[ResourceChange] = []
        self.context: str | None = None
        self._program = program
        self._label = f"{program.project}.{program.stack}"
        self._remembered = record.objects if record else {}
        self._report = report
        self._is_up = record is not None
        self._connected: Cluster | None = None
        self._live: dict[Ref, Object] = {}
        self._declared: dict[Ref, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=16)
        self._module: Future[Any] = self._pool.submit(_import_cluster)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def connect(self, provider: Mapping[str, Any]) -> None:
        """Opens the cluster of the program's provider and lists what is there of this stack."""
        kubeconfig = self._program.environment.get("KUBECONFIG") or os.environ.get("KUBECONFIG")
        if provider.get("kubeconfig") not in (None, kubeconfig):
            raise EngineError(
                "the program hands its Kubernetes provider a kubeconfig: the offline engine takes the cluster"
                " from $KUBECONFIG and the provider's `context`"
            )
        if not _LABEL_VALUE.fullmatch(self._label):
            raise EngineError(
                f"project and stack make no label: {self._label!r} is longer than 63 characters"
            )
        self.context = provider.get("context")
        cluster: Cluster = self._module.result().Cluster(kubeconfig=kubeconfig, context=self.context)
        listed = self._pool.map(lambda kind: cluster.list(kind, f"{STACK_LABEL}={self._label}"), KINDS)
        for kind, items in zip(KINDS, listed, strict=True):
            self._live |= {Ref.of(kind, item): item for item in items}
        self._connected = cluster

    def check(self, refs: Iterable[Ref]) -> None:
        """Raises when one of these objects is there and somebody else's."""
        list(self._pool.map(self._find, refs))

    @property
    def _cluster(self) -> Cluster:
        if not self._connected:
            raise EngineError("the program has no Kubernetes provider, so there is no cluster to work with")
        return self._connected

    # Preview

    def preview(self, registration: Registration) -> Outcome:
        """What the server would make of the object, without making it."""
        resource, inputs = registration.resource, registration.inputs
        if resource.type == PROVIDER:
            try:
                self.connect(resource.inputs)
            except UnreachableError:
                if self._is_up:
                    raise  # otherwise there is nothing yet, and everything would be created
            return Outcome(id=_provider_id(resource))
        if problem(resource):
            return Outcome(outputs=inputs)  # refused with all others of its sort, when the program has ended
        ref = self._declare(resource)
        live = self._find(ref) if self._connected else None
        secrets = objects.secret_paths(resource.inputs) | set(
            self._remembered.get(str(ref), {}).get("secrets", ())
        )
        outputs = None
        if self._connected and not values.has_unknown(inputs):
            outputs = self._dry_run(registration, ref, live)
        if live and outputs:
            before, after = objects.without_noise(live), objects.without_noise(outputs)
            operation = Operation.SAME if before == after else Operation.UPDATE
            changes = objects.changes(objects.flatten(before), objects.flatten(after), secrets)
        else:
            # What the server cannot be asked about: all that the program sets, against what is there of it.
            declared, there = objects.flatten(resource.inputs), objects.flatten(live or {})
            operation = Operation.UPDATE if live else Operation.CREATE
            common = {path: there[path] for path in declared if path in there}
            changes = objects.changes(common, declared, secrets)
        self._changed(resource, operation, changes)
        return Outcome(id=_id(ref), outputs=outputs) if live and outputs else Outcome(outputs=inputs)

    def preview_prune(self) -> None:
        for ref in self._live:
            if ref not in self._declared:
                self._changed(self._forgotten(ref), Operation.DELETE)

    def _dry_run(self, registration: Registration, ref: Ref, live: Object | None) -> Object | None:
        try:
            return self._send(registration, ref, live, dry_run=True)
        except RefusedError as error:
            if error.status == 404:  # its namespace does not exist yet
                return None
            raise

    # Update

    def apply(self, registration: Registration) -> Outcome:
        """Applies the object and waits until it is ready."""
        resource = registration.resource
        if resource.type == PROVIDER:
            return Outcome(id=_provider_id(resource))
        started, operation = time.monotonic(), Operation.SAME
        try:
            ref = self._declare(resource)
            live = self._find(ref)
            if live is None:
                operation = Operation.CREATE
                self._tell(resource, operation, Status.STARTED)
            applied = self._send(registration, ref, live)
            if live and objects.without_noise(live) != objects.without_noise(applied):
                operation = Operation.UPDATE
                self._tell(resource, operation, Status.STARTED)
            ready = self._await_ready(registration, ref, applied, operation)
        except EngineError as error:
            self._tell(resource, operation, Status.FAILED, str(error), started)
            raise
        self._changed(resource, operation)
        self._tell(resource, operation, Status.DONE, since=started)
        ready["metadata"].pop("managedFields", None)
        return Outcome(id=_id(ref), outputs=ready)

    def _await_ready(
        self, registration: Registration, ref: Ref, live: Object, operation: Operation
    ) -> Object:
        annotations = live["metadata"].get("annotations", {})
        if annotations.get("pulumi.com/skipAwait") == "true" or self._binds_late(live):
            return live
        limit = annotations.get("pulumi.com/timeoutSeconds", registration.timeout_seconds or _READY_SECONDS)
        started, told = time.monotonic(), ""
        while missing := objects.waits_for(live):
            seconds = time.monotonic() - started
            hopeless = self._hopeless(live, seconds)
            if hopeless or seconds > float(limit):
                why = [line for line in (hopeless, *self._last_words(live)) if line]
                raise EngineError(
                    "\n  ".join([f"{ref} is not ready after {seconds:.0f} s, waiting for {missing}", *why])
                )
            if missing != told:
                self._tell(registration.resource, operation, Status.WAITING, missing, started)
                told = missing
            self._pause(f"{ref} was waited for")
            live = self._cluster.get(ref.path) or _gone(ref)
        return live

    def _binds_late(self, live: Object) -> bool:
        """A claim whose class waits for a pod that uses it is not bound before there is one."""
        name = live["spec"].get("storageClassName") if live["kind"] == "PersistentVolumeClaim" else None
        found = self._cluster.get(f"/apis/storage.k8s.io/v1/storageclasses/{name}") if name else None
        return bool(found and found.get("volumeBindingMode") == "WaitForFirstConsumer")

    def _hopeless(self, live: Object, seconds: float) -> str:
        if live["kind"] != "Deployment" or seconds < 1:
            return ""
        given_up = objects.deployment_failure(live, seconds)
        stuck = any(problem.hopeless for problem in self._pod_problems(live))
        return given_up or ("it will not get ready by itself" if stuck else "")

    def _pod_problems(self, live: Object) -> list[objects.PodProblem]:
        """Of the pods of the newest revision only: those of the old one are on their way out."""
        metadata, labels = live["metadata"], live["spec"]["selector"]["matchLabels"]
        namespace = metadata["namespace"]
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
        revision = metadata.get("annotations", {}).get(_REVISION)
        newest = {
            item["metadata"]["labels"]["pod-template-hash"]
            for item in self._items(f"/apis/apps/v1/namespaces/{namespace}/replicasets", query)
            if item["metadata"].get("annotations", {}).get(_REVISION) == revision
        }
        pods = self._items(f"/api/v1/namespaces/{namespace}/pods", query)
        mine = [pod for pod in pods if pod["metadata"]["labels"].get("pod-template-hash") in newest]
        return [problem for pod in mine if (problem := objects.pod_problem(pod))]

    def _last_words(self, live: Object) -> list[str]:
        """What each kind of failing pod said last, in its log and in its events."""
        if live["kind"] != "Deployment":
            return []
        path = f"/api/v1/namespaces/{live['metadata']['namespace']}"
        lines = []
        for problem in {(it.container, it.reason): it for it in self._pod_problems(live)}.values():
            lines.append(" ".join(filter(None, (f"pod {problem.pod}:", problem.container, problem.reason))))
            if problem.container:
                previous = str(problem.crashed).lower()
                query = {"container": problem.container, "tailLines": 5, "previous": previous}
                with suppress(RefusedError):  # a container that never ran has no log
                    log = self._cluster.request("GET", f"{path}/pods/{problem.pod}/log", query)
                    lines += [f"  | {line[:300]}" for line in log.splitlines()]
            query = {"fieldSelector": f"involvedObject.name={problem.pod},type=Warning"}
            events = [
                f"  {it.get('reason')}: {it.get('message')}" for it in self._items(f"{path}/events", query)
            ]
            lines += dict.fromkeys(events[-3:])
        return lines

    def _items(self, path: str, query: Mapping[str, Any]) -> list[Object]:
        return list((self._cluster.get(path, query) or {}).get("items", ()))

    # Deletion

    def prune(self) -> None:
        """Deletes what carries the stack's label and was not declared, dependents first."""
        waves: dict[tuple[int, int], list[Ref]] = {}
        for ref in self._live:
            if ref not in self._declared:
                depth = self._remembered.get(str(ref), {}).get("depth", 0)
                waves.setdefault((depth, KINDS.index(ref.kind)), []).append(ref)
        for wave in sorted(waves, reverse=True):
            list(self._pool.map(self._delete, waves[wave]))

    def _delete(self, ref: Ref) -> None:
        started, resource = time.monotonic(), self._forgotten(ref)
        self._tell(resource, Operation.DELETE, Status.STARTED)
        uid = self._live[ref]["metadata"]["uid"]
        self._cluster.delete(ref, uid)
        while (live := self._cluster.get(ref.path)) and live["metadata"]["uid"] == uid:
            seconds = time.monotonic() - started
            if seconds > _GONE_SECONDS:
                finalizers = ", ".join(live["metadata"].get("finalizers", ())) or "none"
                message = f"{ref} is still there {seconds:.0f} s after its deletion; finalizers: {finalizers}"
                self._tell(resource, Operation.DELETE, Status.FAILED, message, started)
                raise EngineError(message)
            self._pause(f"{ref} was being deleted")
        self._changed(resource, Operation.DELETE)
        self._tell(resource, Operation.DELETE, Status.DONE, since=started)

    def _forgotten(self, ref: Ref) -> Resource:
        """The program no longer knows the resource, so it goes by what it is in the cluster."""
        urn = f"urn:pulumi:{self._program.stack}::{self._program.project}::{ref.kind.token}::{_id(ref)}"
        return Resource(urn=urn, type=ref.kind.token, name=_id(ref), custom=True)

    # What they share

    def _declare(self, resource: Resource) -> Ref:
        ref = Ref.of(KIND_OF_TOKEN[resource.type], resource.inputs)
        with self._lock:
            other = self._declared.setdefault(ref, resource.urn)
        if other != resource.urn:
            raise EngineError(f"{ref} is declared twice, by {other} and {resource.urn}")
        return ref

    def _find(self, ref: Ref) -> Object | None:
        """The object, if it is there. Another owner's is never taken over: `down` would delete it."""
        live = self._live.get(ref) or self._cluster.get(ref.path)
        if live and (owner := live["metadata"].get("labels", {}).get(STACK_LABEL)) != self._label:
            whose = f"belongs to stack {owner}" if owner else "was not made by this stack"
            raise EngineError(f"{ref} exists already and {whose}: use another name, or delete it first")
        return live

    def _send(
        self, registration: Registration, ref: Ref, live: Object | None, *, dry_run: bool = False
    ) -> Object:
        body = objects.body_of(ref, values.reveal(registration.inputs), self._label)
        if live:
            objects.keep_ignored(body, live, registration.resource.ignore_changes)
        try:
            return self._cluster.apply(ref, body, dry_run=dry_run)
        except RefusedError as error:
            message = f"{ref}: {error}"
            if "immutable" in message:
                message += (
                    f"\n  it cannot be changed in place: delete {ref}, or run `maas down`, then `maas up`"
                )
            raise RefusedError(error.status, message) from None

    def _pause(self, what: str) -> None:
        if self._stop.wait(_POLL_SECONDS):
            raise EngineError(f"interrupted while {what}")

    def _changed(
        self, resource: Resource, operation: Operation, changes: tuple[PropertyChange, ...] = ()
    ) -> None:
        with self._lock:
            self.changes.append(ResourceChange(**resource.identity, operation=operation, changes=changes))

    def _tell(
        self,
        resource: Resource,
        operation: Operation,
        status: Status,
        message: str = "",
        since: float | None = None,
    ) -> None:
        seconds = time.monotonic() - since if since else 0.0
        event = ResourceEvent(
            **resource.identity, operation=operation, status=status, message=message, seconds=seconds
        )
        if self._report:
            with self._lock:
                self._report(event)


def problem(resource: Resource) -> str:
    """Why the offline engine must not apply the resource; empty when it may."""
    kind = KIND_OF_TOKEN.get(resource.type)
    if not resource.custom or resource.type == PROVIDER:
        return ""
    if kind is None:
        return "not a kind that it applies"
    if resource.read:
        return "reads an object that the program does not manage"
    metadata = resource.inputs.get("metadata")
    for key in ("name", "namespace") if kind.namespaced else ("name",):
        if not isinstance(metadata, dict) or metadata.get(key) in (None, "", UNKNOWN, SECRET):
            return f"no metadata.{key} that is known beforehand, and it makes up none"
    if resource.protect or resource.retain_on_delete:
        return "protect and retain_on_delete are not kept"
    return ""


def _import_cluster() -> Any:
    """Half a second, while the child runs the program; the monitor first, because the child waits for that."""
    importlib.import_module("engine.monitor")
    return importlib.import_module("engine.cluster")


def _gone(ref: Ref) -> Object:
    raise EngineError(f"{ref} was deleted by somebody else while it was waited for")


def _id(ref: Ref) -> str:
    """The id that pulumi-kubernetes gives an object."""
    return f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name


def _provider_id(resource: Resource) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, resource.urn))
