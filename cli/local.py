"""Commands that act on a local stack: each is the rooms called in order."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cli import ROOT, STACKS, platforms
from cli.display import Display, duration
from infra import config
from machine import lifecycle
from machine.layout import Layout
from operations import lock, publish
from operations.errors import OperationError
from operations.model_store import ModelStore, Version, parse_reference
from operations.stack_file import StackFile

if TYPE_CHECKING:
    from engine.plan import Engine, Preview, ResourceEvent, Result
    from operations.inference import Exchange


_CLUSTER = "cluster.json"
"""Remembers the user's own cluster that a stack runs on; a stack without it runs on the built-in one."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A stack, and the platform it runs on."""

    stack: str
    layout: Layout
    platform: platforms.Platform

    @property
    def directory(self) -> Path:
        """What is remembered about this stack between commands."""
        return self.layout.stacks / self.stack

    @property
    def resolved(self) -> Path:
        """The stack file with the platform's facts, as the last command that changes the stack wrote it."""
        return self.directory / self.file.path.name

    @cached_property
    def file(self) -> StackFile:
        return StackFile(STACKS, self.stack)

    def store(self) -> ModelStore:
        return ModelStore(self.platform.model_store)

    def services_of(self, model: str) -> list[str]:
        return self.file.services_of(model)

    def facts(self, images: Mapping[str, str]) -> dict[str, Any]:
        """The stack file's `local` block: what the program must know about the platform."""
        return {
            "kubeContext": self.platform.context,
            "imageRegistry": self.platform.registry.name,
            "modelStore": self.platform.model_store,
            "endpointHost": self.platform.endpoint_host,
            "images": dict(images),
        }

    def settings(self) -> config.Settings:
        return self.file.settings(self.facts({}))

    def display(self, console: Console) -> Display:
        return Display(console, self.layout.cache / "durations.json")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        command = f"maas {' '.join(sys.argv[1:])}"
        with lock.exclusive(self.layout.cache / f"{self.layout.identity}.lock", command):
            yield


def choose(
    stack: str,
    *,
    context: str | None = None,
    registry: str | None = None,
    store: str | None = None,
    endpoint_host: str | None = None,
) -> Chosen:
    """The stack on the platform that was named, now or in an earlier `up`. Raises OperationError."""
    layout = platforms.layout()
    remembered = layout.stacks / stack / _CLUSTER
    if context is None:
        if registry or store or endpoint_host:
            raise OperationError(
                "--registry, --store, --endpoint-host: go with --context NAME; a Kubernetes of our own has its own"
            )
        platform: platforms.Platform = platforms.recall(remembered) or platforms.BuiltIn(layout)
    else:
        if registry is None or store is None:
            raise OperationError(
                f"--context {context}: needs --registry HOST and --store URL, an image registry and a model store"
                " that the cluster's nodes can reach"
            )
        platform = platforms.Existing(
            context=context,
            registry_name=registry,
            model_store=store,
            endpoint_host=endpoint_host or "127.0.0.1",
        )
    return Chosen(stack=stack, layout=layout, platform=platform)


def _engine(chosen: Chosen, engine_name: str | None, config_file: Path | None = None) -> Engine:
    """The engine for this stack. It reads the resolved stack file only when it is set to work."""
    from engine import select_engine

    return select_engine(
        engine_name,
        project_dir=ROOT,
        project=config.PROJECT,
        stack=chosen.stack,
        config_file=config_file or chosen.resolved,
        state_dir=chosen.directory / "engine",
        environment=chosen.platform.environment(),
    )


def _build_folders(settings: config.Settings) -> list[str]:
    folders = (settings.image_of(service).build for service in settings.services.values())
    return sorted({folder for folder in folders if folder is not None})


def _built_images(chosen: Chosen, settings: config.Settings) -> dict[str, str]:
    """The images that are built already; nothing is built."""
    if not chosen.platform.is_up():
        return {}
    builder = platforms.builder(chosen.layout, chosen.platform)
    found = {folder: builder.built(ROOT / folder) for folder in _build_folders(settings)}
    return {folder: reference for folder, reference in found.items() if reference}


def preview(chosen: Chosen, *, engine_name: str | None) -> Preview:
    settings = chosen.settings()
    # A copy of its own: an `up` that runs meanwhile reads the other.
    with tempfile.TemporaryDirectory(prefix="preview-") as directory:
        resolved = Path(directory, chosen.file.path.name)
        chosen.file.resolve(chosen.facts(_built_images(chosen, settings)), resolved)
        return _engine(chosen, engine_name, resolved).preview()


def up(chosen: Chosen, *, engine_name: str | None, console: Console) -> None:
    """Everything from nothing to an endpoint that was asked; each part is left alone where it is there already."""
    settings = chosen.settings()
    with chosen.exclusive():
        result, exchanges = _up(chosen, settings, engine_name, console)
    _print_result(result, exchanges, console)


def _up(
    chosen: Chosen, settings: config.Settings, engine_name: str | None, console: Console
) -> tuple[Result, dict[str, Exchange]]:
    display, platform = chosen.display(console), chosen.platform
    engine = _engine(chosen, engine_name)
    engine.check()  # before minutes go into what it would refuse
    ports = [service.node_port for service in settings.services.values() if service.node_port]
    platform.up(display, ports)
    if isinstance(platform, platforms.Existing):
        chosen.directory.mkdir(parents=True, exist_ok=True)
        platforms.remember(chosen.directory / _CLUSTER, platform)
    with display.step("publish models"):
        versions = _published_models(chosen, settings)
    images = {}
    for folder in _build_folders(settings):
        with display.step(f"build image {folder}") as step:
            images[folder] = platforms.builder(chosen.layout, platform).build(ROOT / folder, step)
    with display.step("deploy") as step:
        chosen.file.resolve(chosen.facts(images), chosen.resolved)
        result = engine.up(_DeployProgress(step.update))
    with display.step("ask every endpoint"):
        platform.publish_ports(ports)
        exchanges = {
            name: _verify(result.outputs["services"][name]["url"], service, versions.get(name))
            for name, service in settings.services.items()
            if service.node_port
        }
    return result, exchanges


class _DeployProgress:
    """Turns the engine's events into one line: what is being waited for."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._waiting: dict[str, str] = {}

    def __call__(self, event: ResourceEvent) -> None:
        from engine.plan import Status

        if event.status in (Status.STARTED, Status.WAITING):
            self._waiting[event.name] = event.message
        else:
            self._waiting.pop(event.name, None)
        self._tell(", ".join(f"{name} {message}".strip() for name, message in self._waiting.items()))


def _published_models(chosen: Chosen, settings: config.Settings) -> dict[str, Version]:
    """The version that each service names, by service. Raises OperationError when one is absent or different."""
    store = chosen.store()
    found = {}
    for name, service in settings.services.items():
        if (model := service.model) is None:
            continue
        publish.seed(store, ROOT / "examples", name=model.name, version=model.version, sha256=model.sha256)
        version = store.version(model.name, model.version)
        if version.sha256 != model.sha256:
            raise OperationError(
                f"service {name}: the stack file names {version.reference} with sha256 {model.sha256}, in"
                f" {store.url} it is {version.sha256}; ./maas deploy {version.reference} writes the latter"
            )
        found[name] = version
    return found


def _verify(url: str, service: config.Service, version: Version | None) -> Exchange:
    from operations import inference

    if version is None:
        return inference.verify_health(url, service.health.ready)
    return inference.verify_model(url, version.manifest)


def _print_result(result: Result, exchanges: Mapping[str, Exchange], console: Console) -> None:
    counts = ", ".join(
        f"{number} {operation}" for operation, number in result.counts.items() if operation != "same"
    )
    done = f"changed: {counts}" if result.changed else "nothing to do: everything is as the stack file says"
    console.print(
        f"\n[bold]{result.stack}[/]: {done} ({result.engine} engine, {duration(result.seconds)})",
        highlight=False,
    )
    for name, exchange in exchanges.items():
        console.print(f"\n[bold]{name}[/] {result.outputs['services'][name]['url']}", highlight=False)
        console.print(f"  {exchange.curl}", highlight=False, markup=False)
        console.print(f"  {exchange.response}", highlight=False, markup=False)


def down(chosen: Chosen, *, purge: bool, console: Console) -> None:
    """Remove what `up` made, by the engine that made it."""
    from engine import recorded_engine

    display = chosen.display(console)
    built_in = isinstance(chosen.platform, platforms.BuiltIn)
    if not chosen.directory.exists():
        StackFile(STACKS, chosen.stack)  # nothing is remembered of it: refuses a name that is no stack's
    with chosen.exclusive():
        brought_up_by = recorded_engine(
            chosen.directory / "engine", project=config.PROJECT, stack=chosen.stack
        )
        # The offline engine's state is the cluster: where that goes, nothing has to be deleted one by one.
        if brought_up_by and chosen.platform.is_up() and not (built_in and brought_up_by == "offline"):
            engine = _engine(chosen, brought_up_by)
            engine.check()
            with display.step("delete the stack's objects") as step:
                engine.destroy(_DeployProgress(step.update))
        if brought_up_by == "pulumi" and not chosen.platform.is_up():
            console.print(
                "the cluster did not answer, so the Pulumi backend still lists its objects; if it is one of your own:"
                f" pulumi stack rm --force {chosen.stack}",
                highlight=False,
            )
        if built_in:
            lifecycle.down(chosen.layout, display)
            _forget_stacks(chosen.layout)
            if purge:
                lifecycle.purge(chosen.layout)
        else:
            shutil.rmtree(chosen.directory, ignore_errors=True)
    kept = "" if purge else "; caches and published models stay (--purge removes them)"
    console.print(f"[bold]{chosen.stack}[/]: down{kept if built_in else ''}", highlight=False)


def _forget_stacks(layout: Layout) -> None:
    """The stacks that ran on the platform went with it; those on clusters of the user's are still there."""
    for directory in layout.stacks.glob("*"):
        if not (directory / _CLUSTER).exists():
            shutil.rmtree(directory)
    if layout.stacks.exists() and not any(layout.stacks.iterdir()):
        layout.stacks.rmdir()


def deploy(
    chosen: Chosen, reference: str, *, service: str | None, engine_name: str | None, console: Console
) -> None:
    """Let a service serve a published version: the stack file first, which is the desired state, then `up`."""
    name, version = parse_reference(reference)
    with chosen.exclusive():
        found = chosen.store().version(name, version)
        service = service or _only_service(chosen, name)
        before = chosen.settings().services.get(service)
        path = os.path.relpath(chosen.file.path, ROOT)
        if chosen.file.set_model(service, name=name, version=version, sha256=found.sha256):
            chosen.settings()  # the edited file must hold before it is written
            chosen.file.save()
            said = f"{path}: {service} serves {reference}; to keep it: git commit {path}"
            console.print(said, highlight=False)
        try:
            result, exchanges = _up(chosen, chosen.settings(), engine_name, console)
        except RuntimeError as error:
            back = before.model if before else None
            if back is None or back.version == version:
                raise
            raise OperationError(
                f"{error}\n{path} names {reference}, which is not in service; what was ready before still is."
                f" Back: ./maas deploy {name}@{back.version}{'' if name == service else f' --service {service}'}"
            ) from error
    _print_result(result, exchanges, console)


def _only_service(chosen: Chosen, model: str) -> str:
    services = chosen.services_of(model)
    if len(services) == 1:
        return services[0]
    serving = ", ".join(services) if services else f"no service of {chosen.file.path.name}"
    raise OperationError(f"model {model!r}: is served by {serving}; say which one: --service NAME")


def _urls(chosen: Chosen, settings: config.Settings) -> dict[str, str]:
    host = chosen.platform.endpoint_host
    return {name: f"http://{host}:{it.node_port}" for name, it in settings.services.items() if it.node_port}


def predict(chosen: Chosen, service: str, data: str) -> Mapping[str, Any]:
    from operations import inference

    settings = chosen.settings()
    serving = {name: it.model for name, it in settings.services.items() if it.model}
    if (model := serving.get(service)) is None:
        raise OperationError(
            f"service {service!r}: serves no model; these do: {', '.join(serving) or 'none'}"
        )
    url = _urls(chosen, settings).get(service)
    if url is None:
        raise OperationError(
            f"service {service!r}: has no nodePort in the stack file, so it has no endpoint outside the cluster"
        )
    return inference.predict(url, model.name, data)


def _cluster(chosen: Chosen) -> Any:
    from engine.cluster import Cluster

    if not chosen.platform.is_up():
        raise OperationError(f"stack {chosen.stack}: is not up; ./maas up")
    kubeconfig = chosen.platform.environment().get("KUBECONFIG", os.environ.get("KUBECONFIG"))
    return Cluster(kubeconfig=kubeconfig, context=chosen.platform.context)


def status(chosen: Chosen, *, console: Console) -> bool:
    """Print how everything is; True when all of it is well."""
    from engine.objects import pod_problem
    from operations import status as services_status

    def problem_of(pod: dict[str, Any]) -> str | None:
        problem = pod_problem(pod)
        return problem.reason if problem else None

    settings = chosen.settings()
    well = True
    if isinstance(chosen.platform, platforms.BuiltIn):
        for component in lifecycle.components(chosen.layout):
            if not component.running:
                well = False
                console.print(
                    f"[red]✗[/] {component.name}: not running; ./maas up mends it; log: {component.log}",
                    highlight=False,
                )
    for it in services_status.services(
        _cluster(chosen), settings, chosen.stack, urls=_urls(chosen, settings), problem_of=problem_of
    ):
        well = well and it.well
        mark = "[green]✓[/]" if it.well else "[red]✗[/]"
        serving = (
            ", ".join(f"{part.what} {part.ready}/{part.replicas} ready" for part in it.serving) or "nothing"
        )
        console.print(f"{mark} {it.name}  {serving}  {it.url}", highlight=False)
        for problem in it.problems:
            console.print(f"    {problem.replace(chr(10), chr(10) + '    ')}", highlight=False, markup=False)
    return well


def logs(chosen: Chosen, service: str, *, lines: int) -> list[tuple[str, str]]:
    from operations import status as services_status

    settings = chosen.settings()
    if service not in settings.services:
        raise OperationError(
            f"service {service!r}: not in {chosen.file.path.name}; there are: {', '.join(settings.services)}"
        )
    return services_status.service_logs(_cluster(chosen), chosen.stack, service, lines=lines)
