"""Long-running processes, on real ones that need no rights."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machine import processes
from machine.errors import MachineError
from machine.layout import Layout
from machine.processes import Process

DEADLINE_SECONDS = 10
# Between two looks at a condition; to look without a pause would take the CPU from what is waited for.
PAUSE_SECONDS = 0.01


@pytest.fixture(autouse=True)
def no_group(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Joining a control group needs root; what is left running is ended."""
    monkeypatch.setattr("machine.cgroups.join", lambda layout: None)
    yield
    for name in processes.names(layout):
        processes.stop(layout, name, timeout_seconds=0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def sh(script: str, name: str = "it", **environment: str) -> Process:
    return Process(name=name, command=("/bin/sh", "-c", script), environment=environment, in_namespace=False)


SLEEP = Process(name="it", command=("sleep", "600"), in_namespace=False)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(PAUSE_SECONDS)


def alive(pid: int) -> bool:
    return processes._identity(pid) is not None


def pid_file(layout: Layout, name: str = "it") -> Path:
    return layout.run / f"{name}.pid"


def test_a_process_is_started_once_found_again_and_stopped(layout: Layout) -> None:
    assert processes.running(layout, "it") is None
    assert processes.start(layout, SLEEP)
    pid = processes.running(layout, "it")
    assert pid is not None
    assert not processes.start(layout, SLEEP)
    assert processes.running(layout, "it") == pid
    assert processes.names(layout) == ["it"]
    processes.stop(layout, "it")
    assert not alive(pid)
    assert processes.running(layout, "it") is None
    assert processes.names(layout) == []


def test_another_command_replaces_the_running_process(layout: Layout) -> None:
    processes.start(layout, SLEEP)
    before = processes.running(layout, "it")
    assert before is not None
    other = Process(name="it", command=("sleep", "601"), in_namespace=False)
    assert processes.start(layout, other)
    after = processes.running(layout, "it")
    assert after is not None
    assert after != before
    assert not alive(before)
    assert Path(f"/proc/{after}/cmdline").read_bytes() == b"sleep\x00601\x00"


def test_a_process_that_ended_is_started_again(layout: Layout) -> None:
    process = sh("exit 0")
    processes.start(layout, process)
    wait_until(lambda: processes.running(layout, "it") is None)
    assert processes.names(layout) == ["it"]  # it was not stopped: somebody will want to know
    assert processes.start(layout, process)


def test_a_process_that_ended_and_was_not_waited_for_does_not_run(layout: Layout) -> None:
    with subprocess.Popen(["true"]) as zombie:
        wait_until(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        assert processes._identity(zombie.pid) is None


def test_the_command_line_of_a_process_does_not_confuse_its_identity(layout: Layout, tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    processes.start(layout, Process(name="it", command=(str(program), "600"), in_namespace=False))
    assert processes.running(layout, "it") is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"identity": record["identity"].rpartition("/")[0] + "/1"},
        lambda record: record | {"identity": "another-boot/" + record["identity"].rpartition("/")[2]},
        lambda record: {"pid": record["pid"]},
    ],
    ids=["another start", "another boot", "no identity"],
)
def test_an_id_that_was_given_to_another_process_is_not_taken_for_ours(
    change: Callable[[dict[str, str]], dict[str, str]], layout: Layout
) -> None:
    processes.start(layout, SLEEP)
    pid = processes.running(layout, "it")
    assert pid is not None
    record = pid_file(layout).read_text()
    pid_file(layout).write_text(json.dumps(change(json.loads(record))))
    assert processes.running(layout, "it") is None
    processes.stop(layout, "it")
    assert alive(pid), "a stranger was ended"
    assert not pid_file(layout).exists()
    pid_file(layout).write_text(record)  # for the fixture to end it


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "1"}', '{"pid": null, "identity": null}'])
def test_a_pid_file_that_was_cut_off_is_no_process(text: str, layout: Layout) -> None:
    layout.run.mkdir(parents=True)
    pid_file(layout).write_text(text)
    assert processes.running(layout, "it") is None
    processes.stop(layout, "it")
    assert processes.names(layout) == []


def test_a_process_that_ended_before_it_was_looked_at_does_not_run(layout: Layout) -> None:
    """Its pid file has no identity, and no process has that id: the two must not be taken for equal."""
    with subprocess.Popen(["true"]) as ended:
        pass
    layout.run.mkdir(parents=True)
    pid_file(layout).write_text(json.dumps({"pid": ended.pid, "identity": None, "command": ["true"]}))
    assert processes.running(layout, "it") is None


def test_what_does_not_run_is_stopped_already(layout: Layout) -> None:
    processes.stop(layout, "it")
    assert not layout.run.exists()


def test_a_process_that_ignores_sigterm_is_killed_after_the_time_out(layout: Layout) -> None:
    processes.start(layout, sh("trap '' TERM; echo ready; exec sleep 600"))
    wait_until(lambda: processes.last_words(layout, "it") == "ready")
    pid = processes.running(layout, "it")
    assert pid is not None
    processes.stop(layout, "it", timeout_seconds=0.1)
    assert not alive(pid)


def test_a_process_may_end_in_order_on_sigterm(layout: Layout) -> None:
    processes.start(layout, sh("trap 'echo bye; exit' TERM; echo ready; while :; do sleep 0.01; done"))
    wait_until(lambda: processes.last_words(layout, "it") == "ready")
    processes.stop(layout, "it")
    assert processes.last_words(layout, "it") == "ready\nbye"


EARLIER_COMMAND = """
import sys
from pathlib import Path
from machine import cgroups, processes
from machine.layout import Layout
cgroups.join = lambda layout: None
layout = Layout(state=Path(sys.argv[1]), cache=Path(sys.argv[2]))
processes.start(layout, processes.Process(name="it", command=("sleep", "600"), in_namespace=False))
"""


def test_a_process_of_an_earlier_command_is_found_and_stopped(layout: Layout) -> None:
    """It is not this command's child: its starter has ended."""
    subprocess.run([sys.executable, "-c", EARLIER_COMMAND, layout.state, layout.cache], check=True)
    pid = processes.running(layout, "it")
    assert pid is not None
    assert not processes.start(layout, SLEEP)
    processes.stop(layout, "it")
    assert not alive(pid)


def test_a_process_does_not_share_the_commands_terminal_directory_or_environment(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "not for others")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    script = (
        'echo "$PWD"; env; readlink /proc/self/fd/0; cut -d " " -f 6 /proc/$$/stat; echo end; exec sleep 600'
    )
    processes.start(layout, sh(script, MODE="batch"))
    wait_until(lambda: "\nend" in processes.last_words(layout, "it", lines=50))
    directory, *environment, standard_input, session, _ = processes.last_words(
        layout, "it", lines=50
    ).splitlines()
    assert directory == "/"
    names = {line.partition("=")[0] for line in environment} - {"PWD", "OLDPWD", "SHLVL", "_"}
    assert names == {"PATH", "HOME", "MODE"}
    assert standard_input == "/dev/null"
    assert int(session) == processes.running(layout, "it") != os.getsid(0)


def test_a_process_in_the_namespace_is_entered_without_a_new_mount_namespace(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machine.network.enter", lambda layout: ("env", "--"))
    processes.start(layout, Process(name="it", command=("sleep", "600")))
    pid = processes.running(layout, "it")
    assert json.loads(pid_file(layout).read_text())["command"] == ["env", "--", "sleep", "600"]
    wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00")


def test_a_process_that_ended_is_reported_with_its_last_words(layout: Layout) -> None:
    processes.start(layout, sh("seq 1 9; echo 'cannot listen: taken' >&2; exit 1", name="etcd"))
    wait_until(lambda: processes.running(layout, "etcd") is None)
    log = layout.logs / "etcd.log"
    message = (
        f"^etcd ended right after its start; its last words, from {log}:\n6\n7\n8\n9\ncannot listen: taken$"
    )
    with pytest.raises(MachineError, match=message):
        processes.require_running(layout, "etcd")


def test_a_running_process_is_required_in_silence(layout: Layout) -> None:
    processes.start(layout, SLEEP)
    processes.require_running(layout, "it")


def test_what_never_ran_has_no_last_words(layout: Layout) -> None:
    assert processes.last_words(layout, "it") == ""
