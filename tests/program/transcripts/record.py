"""Records what the real Pulumi CLI says about the small programs, in the form in which a plan is compared with it.

    python -m tests.program.transcripts.record

needs `pulumi`, its language host for Python and the kubernetes provider's plugin; no cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.plan import UNKNOWN, Plan
from engine.pulumi_cli import masked

HERE = Path(__file__).parent
PROGRAMS = HERE.parent / "programs"
RECORDED = {"graph": "graph", "kubernetes_app": "sample"}
"""Directory of each program -> name of its project."""


def of_plan(plan: Plan) -> dict[str, Any]:
    """{urn: what is compared} of the offline engine's plan."""
    return {
        it.urn: _compared(
            {
                "type": it.type,
                "custom": it.custom,
                "parent": it.parent,
                "provider": f"{it.provider}::id" if it.provider else "",
                "protect": it.protect,
                "retainOnDelete": it.retain_on_delete,
                "ignoreChanges": list(it.ignore_changes),
                "dependencies": list(it.dependencies),
                "propertyDependencies": it.property_dependencies,
                "inputs": it.inputs,
            }
        )
        for it in plan.resources
    }


def of_cli(preview: dict[str, Any]) -> dict[str, Any]:
    """The same of `pulumi preview --json`."""
    return {step["urn"]: _compared(step["newState"]) for step in preview["steps"]}


def _compared(state: Mapping[str, Any]) -> dict[str, Any]:
    """A resource's state without what a provider's Check or the machine adds; what is empty may be left out."""
    inputs = masked(dict(state.get("inputs", {})))
    dependencies = dict(state.get("propertyDependencies", {}))
    if state["type"].startswith("pulumi:providers:"):
        for key in ("version", "__internal", "kubeconfig"):
            inputs.pop(key, None)
            dependencies.pop(key, None)
    if state["type"].endswith(":Secret") and "stringData" in inputs:
        inputs["data"] = inputs.pop("stringData")
    return {
        "type": state["type"],
        "custom": state["custom"],
        "parent": state.get("parent", ""),
        "provider": state.get("provider", "").rpartition("::")[0],
        "protect": state.get("protect", False),
        "retainOnDelete": state.get("retainOnDelete", False),
        "ignoreChanges": state.get("ignoreChanges", []),
        "dependencies": sorted(state.get("dependencies", [])),
        "propertyDependencies": {key: sorted(urns or []) for key, urns in dependencies.items()},
        "inputs": {key: value for key, value in inputs.items() if value != {}},
    }


def preview(program: str, scratch: Path) -> dict[str, Any]:
    """`pulumi preview --json` of a program's stack `dev`, with a state of its own in `scratch`."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PULUMI_BACKEND_URL": f"file://{scratch}",
        "PULUMI_CONFIG_PASSPHRASE": "of a state that is thrown away",
        "KUBECONFIG": str(scratch / "no-cluster"),
    }
    project = scratch / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text(f"name: {RECORDED[program]}\nruntime: python\n")
    directory = PROGRAMS / program
    # A copy: the CLI writes the salt of its secrets into it.
    config = ["--config-file", str(shutil.copy(directory / "Pulumi.dev.yaml", scratch))]

    def pulumi(*arguments: str, cwd: Path) -> str:
        command = ["pulumi", "--non-interactive", *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    pulumi("stack", "init", "dev", cwd=project)
    said: dict[str, Any] = json.loads(pulumi("preview", "--json", "--stack", "dev", *config, cwd=directory))
    return said


def recorded(program: str) -> dict[str, Any]:
    compared: dict[str, Any] = json.loads((HERE / f"{program}.json").read_text())
    return compared


if __name__ == "__main__":
    for name in RECORDED:
        with tempfile.TemporaryDirectory() as directory:
            compared = of_cli(preview(name, Path(directory)))
        text = json.dumps(compared, indent=2, sort_keys=True)
        (HERE / f"{name}.json").write_text(text + "\n")
        sys.stdout.write(f"{name}: {len(compared)} resources, {text.count(UNKNOWN)} unknown values\n")
