"""The engine's end of Pulumi's wire protocol, ResourceMonitor and Engine, for a program that needs no plugins.

Names, parents and inheritance follow the real engine (pkg/resource/deploy/source_eval.go). A call that is not
served here is an error that names it: half an answer would be a wrong plan.
"""

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
from pulumi.runtime.proto import (
    alias_pb2,
    engine_pb2,
    engine_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from engine import values
from engine.evaluate import PARALLEL, Execute, Program, Registration
from engine.plan import SECRET, EngineError, Message, Resource

STACK_TYPE = "pulumi:pulumi:Stack"
STACK_REFERENCE_TYPE = "pulumi:pulumi:StackReference"
PROVIDER_TYPES = "pulumi:providers:"

_OPTIONS = [("grpc.max_receive_message_length", 400 * 1024 * 1024)]  # the SDK's own limit
_SEVERITIES = {engine_pb2.INFO: "info", engine_pb2.WARNING: "warning", engine_pb2.ERROR: "error"}
# Transforms and hooks are claimed although they are refused: without, the SDK tells people to update their CLI.
_FEATURES = [
    resource_pb2.RESOURCE_MONITOR_FEATURE_SECRETS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES,
    resource_pb2.RESOURCE_MONITOR_FEATURE_ALIAS_SPECS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_REPLACEMENT_TRIGGER,
    resource_pb2.RESOURCE_MONITOR_FEATURE_DELETED_WITH,
    resource_pb2.RESOURCE_MONITOR_FEATURE_REPLACE_WITH,
    resource_pb2.RESOURCE_MONITOR_FEATURE_PARAMETERIZATION,
    resource_pb2.RESOURCE_MONITOR_FEATURE_INVOKE_DEPENDS_ON,
    resource_pb2.RESOURCE_MONITOR_FEATURE_TRANSFORMS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_INVOKE_TRANSFORMS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_HOOKS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_ERROR_HOOKS,
    resource_pb2.RESOURCE_MONITOR_FEATURE_STATE_MIGRATIONS,
]


class Monitor(resource_pb2_grpc.ResourceMonitorServicer, engine_pb2_grpc.EngineServicer):
    """Answers one run of one program, and remembers what it declared."""

    def __init__(
        self, *, program: Program, config: Mapping[str, str], dry_run: bool, execute: Execute
    ) -> None:
        self.resources: dict[str, Resource] = {}
        self.stack_outputs: dict[str, Any] = {}
        self.messages: list[Message] = []
        self.failures: list[str] = []
        self._program = program
        self._config = config
        self._dry_run = dry_run
        self._execute = execute
        self._denied = set(json.loads(config.get("pulumi:disable-default-providers", "[]")))
        self._providers: dict[str, dict[str, str]] = {}  # of components: what their children inherit
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
        resource = self._resource(request, context, custom=True)
        inputs = values.decode_struct(request.properties)
        self._keep(replace(resource, inputs=values.mask(inputs), read=True), inputs, context)
        outputs = self._program.stack_references.get(request.id)
        if request.type != STACK_REFERENCE_TYPE or outputs is None:
            return resource_pb2.ReadResourceResponse(
                urn=resource.urn, id=request.id, properties=request.properties, unknown=True
            )
        properties = {"name": request.id, "outputs": dict(outputs), "secretOutputNames": []}
        return resource_pb2.ReadResourceResponse(
            urn=resource.urn, id=request.id, properties=values.encode_struct(properties)
        )

    def RegisterResource(self, request: Any, context: Any) -> resource_pb2.RegisterResourceResponse:
        for option in _REFUSED_OPTIONS & _used(request):
            self._fail(context, f"{request.name} ({request.type}) uses the option {option}: {_ONLY_CLI}")
        inputs = values.decode_struct(request.object)
        resource = replace(
            self._resource(request, context, custom=request.custom),
            inputs=values.mask(inputs),
            property_dependencies={
                key: tuple(sorted(value.urns)) for key, value in sorted(request.propertyDependencies.items())
            },
            ignore_changes=tuple(request.ignoreChanges),
        )
        self._keep(resource, inputs, context)
        if not request.custom:
            with self._lock:
                inherited = self._providers.get(request.parent, {})
                own = {package: _provider_urn(reference) for package, reference in request.providers.items()}
                self._providers[resource.urn] = {**inherited, **own}
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
            resource = replace(self.resources[request.urn], outputs=values.mask(outputs))
            self.resources[request.urn] = resource
            if resource.type == STACK_TYPE:
                self.stack_outputs = dict(resource.outputs)
        return empty_pb2.Empty()

    # Engine

    def Log(self, request: Any, context: Any) -> empty_pb2.Empty:
        severity = _SEVERITIES.get(request.severity)
        if severity and not request.ephemeral:
            text = self.scrub(request.message.strip())
            with self._lock:
                self.messages.append(Message(severity=severity, text=text, urn=request.urn))
        return empty_pb2.Empty()

    def _resource(self, request: Any, context: Any, *, custom: bool) -> Resource:
        """What both kinds of request have in common, with the real engine's inheritance from the parent."""
        with self._lock:
            parent = self.resources.get(request.parent)
        protect, retain = _field(request, "protect"), _field(request, "retainOnDelete")
        provider = _provider_urn(request.provider)
        if parent:
            protect = parent.protect if protect is None else protect
            retain = parent.retain_on_delete if retain is None else retain
        package = request.type.split(":")[0]
        if custom and package != "pulumi":
            with self._lock:
                inherited = self._providers.get(request.parent, {}).get(package, "")
            of_parent = (
                parent.provider if parent and f"::{PROVIDER_TYPES}{package}::" in parent.provider else ""
            )
            provider = provider or of_parent or inherited
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
            protect=bool(protect),
            retain_on_delete=bool(retain),
            aliases=tuple(self._alias(alias, request) for alias in getattr(request, "aliases", ())),
        )

    def _keep(self, resource: Resource, inputs: dict[str, Any], context: Any) -> None:
        self._learn_secrets(inputs)
        with self._lock:
            duplicate = resource.urn in self.resources
            self.resources.setdefault(resource.urn, resource)
        if duplicate:
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

    def _alias(self, alias: alias_pb2.Alias, request: Any) -> str:
        if alias.WhichOneof("alias") == "urn":
            return alias.urn
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
        raise AssertionError("abort returned")


_REFUSED_OPTIONS = {"remote", "transforms", "hooks", "state_migrations", "importId"}
_ONLY_CLI = "the offline engine does not support that; use --engine pulumi"


def _refused(method: str) -> Any:
    def refuse(self: Monitor, request: Any, context: Any) -> NoReturn:  # noqa: ARG001
        self._fail(context, f"the program calls {method}: {_ONLY_CLI}")

    return refuse


for _servicer in Monitor.__bases__:
    for _method in vars(_servicer):
        if not _method.startswith("_") and _method not in vars(Monitor):
            setattr(Monitor, _method, _refused(_method))


@contextmanager
def serve(monitor: Monitor) -> Iterator[str]:
    """The monitor's address, on loopback and a port of the system's choice, while the context lasts."""
    server = grpc.server(ThreadPoolExecutor(max_workers=PARALLEL), options=_OPTIONS)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)
    engine_pb2_grpc.add_EngineServicer_to_server(monitor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None)


def _field(request: Any, name: str) -> bool | None:
    """An optional bool of a request; None when it is absent or not a field of this kind of request."""
    if name not in request.DESCRIPTOR.fields_by_name or not request.HasField(name):
        return None
    return bool(getattr(request, name))


def _used(request: Any) -> set[str]:
    """Names of the fields that say something; the SDK always sends some messages, empty."""
    return {
        field.name
        for field, value in request.ListFields()
        if not isinstance(value, ProtobufMessage) or value.ListFields()
    }


def _provider_urn(reference: str) -> str:
    return reference.rpartition("::")[0]  # urn::id


def _timeout(timeouts: Any) -> float | None:
    """The longer of create and update (Go durations such as 1m30s), in seconds."""
    seconds = [_duration(text) for text in (timeouts.create, timeouts.update) if text]
    return max(seconds, default=None)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _duration(text: str) -> float:
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", text))
