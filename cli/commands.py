"""Every command of `maas`. Rooms are imported by the command that uses them: `--help` must not wait for any."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import ROOT

if TYPE_CHECKING:
    from rich.console import Console

    from engine.plan import Preview

app = typer.Typer(
    name="maas",
    help="Model as a Service: from a trained model to an endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Stack = Annotated[
    str, typer.Argument(metavar="[STACK]", help="The stack: stacks/Pulumi.STACK.yaml.", show_default=True)
]
StackOption = Annotated[str, typer.Option("--stack", help="The stack: stacks/Pulumi.STACK.yaml.")]


class EngineName(StrEnum):
    PULUMI = "pulumi"
    OFFLINE = "offline"


Engine = Annotated[
    EngineName | None,
    typer.Option("--engine", help="Force an engine; by default pulumi where it is on PATH."),
]


def console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


@app.command()
def up(
    stack: Stack = "local",
    engine: Engine = None,
    context: Annotated[
        str | None,
        typer.Option(help="Use this context of your kubeconfig instead of a Kubernetes of our own."),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="With --context: image registry that this machine and its nodes reach."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="With --context: model store URL; file:// means a directory on its nodes."),
    ] = None,
    endpoint_host: Annotated[
        str | None, typer.Option(help="With --context: where its NodePorts answer, by default 127.0.0.1.")
    ] = None,
) -> None:
    """Bring a stack up: set up what is missing, publish, deploy, and ask every endpoint."""
    from cli import local

    chosen = local.choose(stack, context=context, registry=registry, store=store, endpoint_host=endpoint_host)
    local.up(chosen, engine_name=engine, console=console())


@app.command()
def down(
    stack: Stack = "local",
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove caches and published models as well.")
    ] = False,
) -> None:
    """Remove what `up` made. Caches and published models stay."""
    from cli import local

    local.down(local.choose(stack), purge=purge, console=console())


@app.command()
def preview(
    stack: Stack = "local",
    engine: Engine = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what `up` would create, update and delete, property by property."""
    from cli import local

    result = local.preview(local.choose(stack), engine_name=engine)
    if as_json:
        from engine.plan import to_json

        typer.echo(json.dumps(to_json(result), indent=2, default=str))
    else:
        _print_preview(result, console())


def _print_preview(preview: Preview, console: Console) -> None:
    from engine.plan import Operation

    signs = {
        Operation.CREATE: "[green]+",
        Operation.UPDATE: "[yellow]~",
        Operation.REPLACE: "[magenta]±",
        Operation.DELETE: "[red]-",
    }
    for change in preview.changes:
        if change.operation is Operation.SAME:
            continue
        console.print(
            f"{signs[change.operation]} {change.operation}[/] {change.type} [bold]{change.name}[/]",
            highlight=False,
        )
        for property_ in change.changes:
            old, new = (json.dumps(value, default=str) for value in (property_.old, property_.new))
            text = (
                new
                if property_.old is None
                else f"{old} (removed)"
                if property_.new is None
                else f"{old} → {new}"
            )
            console.print(f"    {property_.path}: {text}", highlight=False, markup=False)
    counts = ", ".join(
        f"{number} to {operation}" for operation, number in preview.counts.items() if operation != "same"
    )
    console.print(f"{preview.stack}: {counts or 'no changes'} ({preview.engine} engine)", highlight=False)


@app.command()
def publish(
    path: Annotated[
        Path, typer.Argument(help="A model file (.skops, .joblib, .onnx), or a pulled version directory.")
    ],
    name: Annotated[str | None, typer.Option(help="What the model is called.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Its version; by default the next whole number.")
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle", help="Let a pickle-based file (.joblib) run its code on this machine."
        ),
    ] = False,
    stack: StackOption = "local",
) -> None:
    """Publish a model as an immutable version."""
    from cli import local
    from operations import publish as publishing

    chosen = local.choose(stack)
    published = publishing.publish(
        chosen.store(), path, name=name, version=version, trust_pickle=trust_pickle
    )
    typer.echo(f"{published.reference} sha256:{published.sha256} in {chosen.platform.model_store}")
    for service in chosen.services_of(published.manifest.name):
        typer.echo(f"deploy it: ./maas deploy {published.reference} --service {service}")


@app.command()
def models(stack: StackOption = "local") -> None:
    """List published models."""
    from cli import local

    for version in local.choose(stack).store().versions():
        manifest = version.manifest
        columns = (f"{version.reference:<24}", f"{manifest.format:<14}", manifest.created, version.sha256)
        typer.echo("  ".join((*columns, manifest.created_by)))


@app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    to: Annotated[Path | None, typer.Option(help="Directory to make; by default ./NAME-VERSION.")] = None,
    stack: StackOption = "local",
) -> None:
    """Fetch a published version, every file verified."""
    from cli import local
    from operations.model_store import parse_reference

    name, version = parse_reference(model)
    destination = to or Path(f"{name}-{version}")
    pulled = local.choose(stack).store().pull(name, version, destination)
    typer.echo(f"{pulled.reference} sha256:{pulled.sha256} verified, in {destination}")


@app.command()
def deploy(
    model: Annotated[str, typer.Argument(metavar="NAME@VERSION")],
    service: Annotated[
        str | None, typer.Option(help="The service to change, when more than one serves the model.")
    ] = None,
    stack: StackOption = "local",
    engine: Engine = None,
) -> None:
    """Write a published version into the stack file and bring the stack up."""
    from cli import local

    local.deploy(local.choose(stack), model, service=service, engine_name=engine, console=console())


@app.command()
def predict(
    service: Annotated[str, typer.Argument(help="A service that serves a model.")],
    data: Annotated[
        str, typer.Argument(help="JSON: an array for the model's input, or a whole infer request.")
    ],
    stack: StackOption = "local",
) -> None:
    """Ask a service's endpoint for a prediction."""
    from cli import local

    typer.echo(json.dumps(local.predict(local.choose(stack), service, data), indent=2))


@app.command()
def status(stack: Stack = "local") -> None:
    """Show services, what they serve, how much of it is ready, and why not when it is not."""
    from cli import local

    if not local.status(local.choose(stack), console=console()):
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[str, typer.Argument()],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of each replica.")] = 50,
    stack: StackOption = "local",
) -> None:
    """Print the end of a service's logs."""
    from cli import local

    for pod, text in local.logs(local.choose(stack), service, lines=lines):
        typer.echo(f"==> {pod}\n{text}")


@app.command()
def doctor() -> None:
    """Check this machine: each line says what was found, and how to mend what is missing."""
    import shutil
    import sys

    from cli.platforms import layout
    from machine import lifecycle

    screen = console()
    mendable = True
    for it in lifecycle.requirements(layout()):
        screen.print(f"{'[green]✓' if it.met else '[red]✗'}[/] {it.name}: {it.found}", highlight=False)
        if not it.met:
            screen.print(f"    fix: {it.fix}", highlight=False, markup=False)
            mendable = mendable and it.mended_by_up
    screen.print(f"[green]✓[/] Python: {sys.version.split()[0]}", highlight=False)
    pulumi = shutil.which("pulumi")
    screen.print(
        f"[green]✓[/] engine: {f'pulumi, {pulumi}' if pulumi else 'offline (no pulumi on PATH)'}",
        highlight=False,
    )
    if not mendable:
        raise typer.Exit(1)


@app.command()
def check() -> None:
    """Lint, types and unit tests: under a minute."""
    from cli import checks

    raise typer.Exit(checks.check(ROOT))


@app.command("test")
def run_tests(
    long: Annotated[bool, typer.Option("--long", help="With the tests that take many minutes.")] = False,
) -> None:
    """Every test, those against a real platform on this machine included."""
    from cli import checks

    raise typer.Exit(checks.test(ROOT, long=long, ci=os.environ.get("CI") == "true"))
