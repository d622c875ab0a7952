"""The offline plan agrees with the real engine: with recorded previews always, with the live CLI where there is one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.evaluate import Child, evaluate
from engine.program import Program
from tests.program.transcripts import record


@pytest.fixture(params=record.RECORDED)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def offline(program: str) -> dict[str, Any]:
    directory, project = record.PROGRAMS / program, record.RECORDED[program]
    file = directory / "Pulumi.dev.yaml"
    with Child(Program(directory=directory, project=project, stack="dev", config_file=file)) as child:
        return record.of_plan(evaluate(child, dry_run=True))


def test_the_plan_is_what_the_cli_said_when_it_was_recorded(program: str) -> None:
    assert offline(program) == record.recorded(program)


@pytest.mark.pulumi
@pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="no pulumi on PATH: compared with transcripts only"
)
def test_the_plan_is_what_the_cli_says_now(program: str, tmp_path: Path) -> None:
    assert offline(program) == record.of_cli(record.preview(program, tmp_path))
