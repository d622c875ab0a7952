"""The offline engine: plans any target, and applies programs that are made of Kubernetes objects alone.

Its state is the cluster, where every object carries the stack's label, plus one file with the last outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.apply import PROVIDER, Session, problem
from engine.evaluate import Child, evaluate
from engine.objects import KIND_OF_TOKEN, KINDS, Ref, secret_paths
from engine.plan import EngineError, Plan, Preview, Report, Result, count
from engine.program import Program
from engine.state import State


class OfflineEngine:
    name = "offline"

    def __init__(self, program: Program, state_dir: Path) -> None:
        self.program = program
        self.state = State(state_dir, engine=self.name, project=program.project, stack=program.stack)

    def check(self) -> None:
        self.state.read()

    def plan(self) -> Plan:
        """What the program declares, for any target; no network, no credentials."""
        with Child(self.program) as child:
            return evaluate(child, dry_run=True)

    def preview(self) -> Preview:
        record = self.state.read()
        with Child(self.program) as child, Session(self.program, record) as session:
            plan = evaluate(child, dry_run=True, execute=session.preview)
            refuse(plan)
            session.preview_prune()
        return Preview(
            engine=self.name,
            project=plan.project,
            stack=plan.stack,
            changes=tuple(sorted(session.changes, key=lambda change: change.urn)),
            outputs=plan.outputs,
            messages=plan.messages,
        )

    def up(self, report: Report) -> Result:
        started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self.state.lock())
            record = self.state.read()
            # Both start now: the second has loaded the SDK when the first has shown what the program wants.
            planning, applying = (stack.enter_context(Child(self.program)) for _ in range(2))
            session = stack.enter_context(Session(self.program, record, report))
            plan = evaluate(planning, dry_run=True)
            refuse(plan)
            session.connect(provider_of(plan))
            session.check(_refs(plan).values())
            declared = _memory(plan)
            # Before the first object exists: whatever happens next, the other engine will know.
            known = {**record.objects, **declared} if record else declared
            outputs = record.outputs if record else {}
            self.state.write(context=session.context, outputs=outputs, objects=known)
            applied = evaluate(applying, dry_run=False, execute=session.apply)
            session.prune()
            self.state.write(context=session.context, outputs=applied.outputs, objects=declared)
        return self._result(session, started, applied)

    def destroy(self, report: Report) -> Result:
        started = time.monotonic()
        with self.state.lock():
            record = self.state.read()
            with Session(self.program, record, report) as session:
                session.connect({"context": record.context} if record else provider_of(self.plan()))
                session.prune()
            self.state.forget()
        return self._result(session, started)

    def _result(self, session: Session, started: float, applied: Plan | None = None) -> Result:
        return Result(
            engine=self.name,
            project=self.program.project,
            stack=self.program.stack,
            counts=count(change.operation for change in session.changes),
            outputs=applied.outputs if applied else {},
            seconds=time.monotonic() - started,
            messages=applied.messages if applied else (),
        )


def refuse(plan: Plan) -> None:
    """Raises with everything that the offline engine cannot apply; called before it has applied anything."""
    problems = [f"{it.name} ({it.type}): {text}" for it in plan.resources if (text := problem(it))]
    if len([it for it in plan.resources if it.type == PROVIDER]) > 1:
        problems.append("more than one Kubernetes provider: it works with one cluster")
    if problems:
        kinds = ", ".join(kind.name for kind in KINDS)
        raise EngineError(
            "the offline engine cannot apply this program; --engine pulumi can:"
            + "".join(f"\n  {text}" for text in problems)
            + f"\nit applies, of Kubernetes: {kinds}; of clouds: nothing"
        )


def provider_of(plan: Plan) -> Mapping[str, Any]:
    for resource in plan.resources:
        if resource.type == PROVIDER:
            return resource.inputs
    raise EngineError("the program has no Kubernetes provider, so there is no cluster to work with")


def _memory(plan: Plan) -> dict[str, dict[str, Any]]:
    """Of each object what is needed when the program has forgotten it.

    Its depth among the dependencies, because deletion goes from the deepest up, and the paths of its secrets.
    """
    by_urn = {resource.urn: resource for resource in plan.resources}

    def depth(urn: str) -> int:
        needed = by_urn[urn].dependencies if urn in by_urn else ()
        return 1 + max((depth(dependency) for dependency in needed), default=0)

    return {
        str(ref): {"depth": depth(urn), "secrets": sorted(secret_paths(by_urn[urn].inputs))}
        for urn, ref in _refs(plan).items()
    }


def _refs(plan: Plan) -> dict[str, Ref]:
    kinds = ((it, KIND_OF_TOKEN.get(it.type)) for it in plan.resources)
    return {it.urn: Ref.of(kind, it.inputs) for it, kind in kinds if kind}
