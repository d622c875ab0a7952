"""What a machine remembers of a stack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import recorded_engine, select_engine
from engine.plan import EngineError
from engine.state import State


def state(directory: Path, engine: str = "offline") -> State:
    return State(directory, engine=engine, project="sample", stack="dev")


def test_a_stack_that_is_not_up_has_no_record(tmp_path: Path) -> None:
    assert state(tmp_path).read() is None
    assert recorded_engine(tmp_path, project="sample", stack="dev") is None


def test_a_record_is_read_back_is_private_and_leaves_no_litter(tmp_path: Path) -> None:
    state(tmp_path).write(context="c", outputs={"url": "u"}, objects={"ConfigMap/a/b": {"depth": 1}})
    record = state(tmp_path).read()
    assert record is not None
    assert (record.engine, record.context, record.outputs) == ("offline", "c", {"url": "u"})
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    state(tmp_path).forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("first", "second"), [("offline", "pulumi"), ("pulumi", "offline")])
def test_a_stack_is_never_switched_to_the_other_engine_silently(
    tmp_path: Path, first: str, second: str
) -> None:
    state(tmp_path, first).write()
    assert recorded_engine(tmp_path, project="sample", stack="dev") == first
    with pytest.raises(EngineError, match=f"brought up by the {first} engine.*maas down dev"):
        state(tmp_path, second).read()


def test_a_damaged_record_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "sample.dev.json").write_text('{"engine": ')
    with pytest.raises(EngineError, match=r"sample\.dev\.json is damaged"):
        state(tmp_path).read()


def test_a_stack_is_changed_by_one_process_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    with (
        state(tmp_path).lock(),
        pytest.raises(EngineError, match=f"stack dev is being changed by process {os.getpid()}"),
        state(tmp_path, "pulumi").lock(),
    ):
        pass
    with state(tmp_path).lock():
        pass


@pytest.mark.parametrize(
    ("name", "on_path", "chosen"),
    [
        (None, True, "pulumi"),
        (None, False, "offline"),
        ("offline", True, "offline"),
        ("pulumi", False, "pulumi"),
    ],
)
def test_the_pulumi_cli_is_the_engine_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, on_path: bool, chosen: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if on_path:
        (tmp_path / "pulumi").touch(mode=0o755)
    engine = select(tmp_path, name)
    assert type(engine).__name__.lower() == f"{chosen}engine"


def test_an_engine_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'terraform' does not exist: choose pulumi or offline"):
        select(tmp_path, "terraform")


def select(directory: Path, name: str | None) -> object:
    return select_engine(
        name,
        project_dir=directory,
        project="sample",
        stack="dev",
        config_file=directory / "Pulumi.dev.yaml",
        state_dir=directory / "state",
    )
