"""The engine's end of Pulumi's wire protocol: ResourceMonitor and Engine, for programs that need no plugins.

Names, parents and inheritance follow the real engine (pkg/resource/deploy/source_eval.go). A call that is not
served here is an error that names it: half an answer would be a wrong plan.
"""
# ruff: noqa: ARG001, ARG002, N802 (names and signatures are the protocol's)

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message as ProtobufMessage
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, resource_pb2, resource_pb2_grpc

from engine import values
from engine.plan import SECRET, EngineError, Message, Resource
from engine.program import PARALLEL, Execute, Program, Registration

STACK_TYPE = "pulumi:pulumi:Stack"
_ONLY_CLI = "the offline engine does not support that; use --engine pulumi"
_REFUSED_OPTIONS = {"remote", "transforms", "hooks", "state_migrations", "importId"}
_SEVERITIES = {engine_pb2.INFO: "info", engine_pb2.WARNING: "warning", engine_pb2.ERROR: "error"}
# All but those that change the form of values. What is refused is claimed too: the SDK would otherwise tell
# people to update a CLI that they do not have.
_FEATURES = [
    number
    for name, number in resource_pb2.ResourceMonitorFeature.items()
    if not name.endswith(("OUTPUT_VALUES", "BYTE_STRING"))
]


class Monitor(resource_pb2_grpc.ResourceMonitorServicer, engine_pb2_grpc.EngineServicer):
    """Answers one run of one program, and remembers what it declared."""

    def __init__(
        self, *, program: Program, config: Mapping[str, str], dry_run: bool, execute: Execute
    ) -> None:
        self.resources: dict[str, Resource] = {}
        self.messages: list[Message] = []
        self.failures: list[str] = []
        self._program = program
        self._config = config
        self._dry_run = dry_run
        self._execute = execute
        self._denied = set(json.loads(config.get("pulumi:disable-default-providers", "[]")))
        self._providers: dict[str, dict[str, str]] = {}  # by component: what its children inherit
        self._secrets: set[str] = set()
        self._lock = threading.Lock()

    def scrub(self, text: str) -> str:
        """`text` without any secret of the program: an API server may quote a value that it refuses."""
        with self._lock:
            secrets = sorted(self._secrets, key=len, reverse=True)
        for secret in secrets:
            text = text.replace(secret, SECRET)
        return text

    # ResourceMonitor

    def GetDeploymentInfo(self, request: Any, context: Any) -> resource_pb2.DeploymentInfo:
        return resource_pb2.DeploymentInfo(
            project=self._program.project,
            stack=self._program.stack,
            organization="organization",
            config=self._config,
            dryRun=self._dry_run,
            supportedFeatures=_FEATURES,
        )

    def RegisterPackage(self, request: Any, context: Any) -> resource_pb2.RegisterPackageResponse:
        return resource_pb2.RegisterPackageResponse(ref=str(uuid.uuid5(uuid.NAMESPACE_URL, str(request))))

    def SignalAndWaitForShutdown(self, request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> resource_pb2.ResourceInvokeResponse:
        return resource_pb2.ResourceInvokeResponse(unknown=True)

    def ReadResource(self, request: Any, context: Any) -> resource_pb2.ReadResourceResponse:
        inputs = values.decode_struct(request.properties)
        resource = replace(
            self._declared(request, context, custom=True), inputs=values.mask(inputs), read=True
        )
        self._keep(resource, inputs, context)
        outputs = self._program.stack_references.get(request.id)
        if request.type != "pulumi:pulumi:StackReference" or outputs is None:
            properties, unknown = request.properties, True
        else:
            known = {"name": request.id, "outputs": dict(outputs), "secretOutputNames": []}
            properties, unknown = values.encode_struct(known), False
        return resource_pb2.ReadResourceResponse(
            urn=resource.urn, id=request.id, properties=properties, unknown=unknown
        )

    def RegisterResource(self, request: Any, context: Any) -> resource_pb2.RegisterResourceResponse:
        for option in _REFUSED_OPTIONS & _used(request):
            self._fail(context, f"{request.name} ({request.type}) uses the option {option}: {_ONLY_CLI}")
        inputs = values.decode_struct(request.object)
        dependencies = {key: tuple(sorted(it.urns)) for key, it in request.propertyDependencies.items()}
        resource = replace(
            self._declared(request, context, custom=request.custom),
            inputs=values.mask(inputs),
            property_dependencies=dict(sorted(dependencies.items())),
            ignore_changes=tuple(request.ignoreChanges),
            aliases=tuple(self._alias(alias, request) for alias in request.aliases),
        )
        self._keep(resource, inputs, context)
        if not request.custom:
            own = {package: _provider_urn(reference) for package, reference in request.providers.items()}
            with self._lock:
                self._providers[resource.urn] = {**self._providers.get(request.parent, {}), **own}
            return resource_pb2.RegisterResourceResponse(urn=resource.urn)
        try:
            timeout = _timeout(request.customTimeouts)
            outcome = self._execute(Registration(resource=resource, inputs=inputs, timeout_seconds=timeout))
        except EngineError as error:
            self._fail(context, str(error))
        outputs = values.keep_secret(outcome.outputs, inputs, request.additionalSecretOutputs)
        return resource_pb2.RegisterResourceResponse(
            urn=resource.urn, id=outcome.id, object=values.encode_struct(outputs)
        )

    def RegisterResourceOutputs(self, request: Any, context: Any) -> empty_pb2.Empty:
        outputs = values.decode_struct(request.outputs)
        self._learn_secrets(outputs)
        with self._lock:
            self.resources[request.urn] = replace(self.resources[request.urn], outputs=values.mask(outputs))
        return empty_pb2.Empty()

    # Engine

    def Log(self, request: Any, context: Any) -> empty_pb2.Empty:
        severity = _SEVERITIES.get(request.severity)
        if severity and not request.ephemeral:
            message = Message(severity=severity, text=self.scrub(request.message.strip()), urn=request.urn)
            with self._lock:
                self.messages.append(message)
        return empty_pb2.Empty()

    def _declared(self, request: Any, context: Any, *, custom: bool) -> Resource:
        """What both kinds of request have in common, with what the real engine takes from the parent."""
        with self._lock:
            parent = self.resources.get(request.parent)
            inherited = self._providers.get(request.parent, {})
        protect, retain = _flag(request, "protect"), _flag(request, "retainOnDelete")
        package, provider = request.type.split(":")[0], _provider_urn(request.provider)
        if custom and package != "pulumi":
            of_parent = parent.provider if parent and f":providers:{package}::" in parent.provider else ""
            provider = provider or of_parent or inherited.get(package, "")
            if not provider and {"*", package} & self._denied:
                denied = f"Default provider for '{package}' disabled."
                self._fail(context, f"{denied} '{request.type}' must use an explicit provider.")
        return Resource(
            urn=self._urn(request.parent, request.type, request.name),
            type=request.type,
            name=request.name,
            custom=custom,
            parent=request.parent,
            provider=provider,
            dependencies=tuple(sorted(request.dependencies)),
            protect=bool(parent and parent.protect) if protect is None else protect,
            retain_on_delete=bool(parent and parent.retain_on_delete) if retain is None else retain,
        )

    def _keep(self, resource: Resource, inputs: dict[str, Any], context: Any) -> None:
        self._learn_secrets(inputs)
        with self._lock:
            first = self.resources.setdefault(resource.urn, resource)
        if first is not resource:
            self._fail(context, f"Duplicate resource URN '{resource.urn}'; try giving it a unique name")

    def _learn_secrets(self, tree: Any) -> None:
        # Shorter ones would blacken half of any message, and could be guessed from it.
        found = {str(leaf) for leaf, secret in values.leaves(tree) if secret and len(str(leaf)) >= 4}
        with self._lock:
            self._secrets |= found

    def _urn(self, parent: str, type_: str, name: str, *, stack: str = "", project: str = "") -> str:
        chain = parent.split("::")[2] if parent else STACK_TYPE
        qualified = type_ if chain == STACK_TYPE else f"{chain}${type_}"
        stack, project = stack or self._program.stack, project or self._program.project
        return f"urn:pulumi:{stack}::{project}::{qualified}::{name}"

    def _alias(self, alias: Any, request: Any) -> str:
        if alias.WhichOneof("alias") == "urn":
            return str(alias.urn)
        spec = alias.spec
        parent = "" if spec.noParent else spec.parentUrn or request.parent
        type_, name = spec.type or request.type, spec.name or request.name
        return self._urn(parent, type_, name, stack=spec.stack, project=spec.project)

    def _fail(self, context: Any, message: str) -> NoReturn:
        message = self.scrub(message)
        with self._lock:
            if message not in self.failures:
                self.failures.append(message)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        raise AssertionError("abort raises")


def _refused(method: str) -> Any:
    def refuse(self: Monitor, request: Any, context: Any) -> NoReturn:
        self._fail(context, f"the program calls {method}: {_ONLY_CLI}")

    return refuse


for _servicer in Monitor.__bases__:
    for _method in vars(_servicer):
        if not _method.startswith("_") and _method not in vars(Monitor):
            setattr(Monitor, _method, _refused(_method))


@contextmanager
def serve(monitor: Monitor) -> Iterator[str]:
    """The monitor's address, on loopback and a port of the system's choice, while the context lasts."""
    limit = ("grpc.max_receive_message_length", 400 * 1024 * 1024)  # the SDK's own
    server = grpc.server(ThreadPoolExecutor(max_workers=PARALLEL), options=[limit])
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)
    engine_pb2_grpc.add_EngineServicer_to_server(monitor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None)


def _flag(request: Any, name: str) -> bool | None:
    """An optional bool of a request; None when it is absent, or no field of this kind of request."""
    known = name in request.DESCRIPTOR.fields_by_name and request.HasField(name)
    return bool(getattr(request, name)) if known else None


def _used(request: Any) -> set[str]:
    """Names of the fields that say something; the SDK always sends some messages, empty."""
    fields = request.ListFields()
    return {it.name for it, value in fields if not isinstance(value, ProtobufMessage) or value.ListFields()}


def _provider_urn(reference: str) -> str:
    return reference.rpartition("::")[0]  # urn::id


def _timeout(timeouts: Any) -> float | None:
    """The longer of create and update (Go durations such as 1m30s), in seconds."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    found = [re.findall(r"([\d.]+)(ms|h|m|s)", text) for text in (timeouts.create, timeouts.update) if text]
    return max((sum(float(number) * units[unit] for number, unit in it) for it in found), default=None)
