"""One change of a platform at a time, across processes and their deaths."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from operations.errors import OperationError
from operations.lock import exclusive

HOLDER = """
import sys
from pathlib import Path
from operations.lock import exclusive
with exclusive(Path(sys.argv[1]), "maas up local"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_is_refused_with_who_holds_the_lock_and_a_killed_holder_leaves_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "not yet there" / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            message = (
                r"^maas down: another command is changing this platform:"
                rf" maas up local \(pid {holder.pid}, since \d\d:\d\d:\d\d UTC\); wait for it or end it$"
            )
            for _ in range(2):  # being refused changes nothing
                with pytest.raises(OperationError, match=message), exclusive(path, "maas down"):
                    raise AssertionError
        finally:
            holder.send_signal(signal.SIGKILL)
    with exclusive(path, "maas down"):
        assert f'"pid": {os.getpid()}' in path.read_text()


def test_the_lock_is_given_back_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / "lock", "maas up"):
            raise KeyboardInterrupt
        with exclusive(tmp_path / "lock", "maas up"):
            pass


def test_locks_of_two_platforms_do_not_meet(tmp_path: Path) -> None:
    with exclusive(tmp_path / "one", "maas up"), exclusive(tmp_path / "two", "maas up"):
        assert (tmp_path / "one").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"pid": 1}', "{}"])
def test_a_holder_that_has_not_signed_yet_is_no_failure(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, "maas up"):
        path.write_text(text)
        message = (
            "^maas down: another command is changing this platform: one that has just started; try again$"
        )
        with pytest.raises(OperationError, match=message), exclusive(path, "maas down"):
            raise AssertionError


def test_a_shorter_signature_replaces_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(1000 * "x")
    with (
        exclusive(path, "maas up"),
        pytest.raises(OperationError, match=re.escape(f"maas up (pid {os.getpid()},")),
        exclusive(path, "maas down"),
    ):
        raise AssertionError


def test_a_place_where_no_lock_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "lock"):
        with (
            pytest.raises(OperationError, match=f"^lock {path}: cannot be opened: "),
            exclusive(path, "maas up"),
        ):
            raise AssertionError
