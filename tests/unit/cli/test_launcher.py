"""./maas: the virtual environment, with a Python that makes one in no time and notes what is installed.

The fakes do what the launcher relies on and nothing more; the real ones run in every use of ./maas.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMES = ("python3.11", "python3.12", "python3.13", "python3")

PYTHON = """#!/bin/sh
case "$*" in
*version_info*) exit "${TOO_OLD:-0}" ;;
*ensurepip*) exit 0 ;;
"-m venv "*)
    echo "venv made" >>"$LOG"
    mkdir -p "$3/bin" "$3/lib"
    for name in python pip; do cp "$FAKES/venv-$name" "$3/bin/$name"; done ;;
*) echo "fake python: $*" >&2; exit 70 ;;
esac
"""
VENV_PYTHON = """#!/bin/sh
venv=$(dirname "$(dirname "$0")")
case "$*" in
*sys.prefix*) echo "$venv" ;;
*sysconfig*) echo "$venv/lib" ;;
"-P -m cli"*)
    shift 3
    echo "root $(cat "$venv/lib/maas.pth")"
    echo "in $PWD"
    for argument; do echo "<$argument>"; done
    exit "${CLI_CODE:-0}" ;;
*) echo "fake venv python: $*" >&2; exit 70 ;;
esac
"""
VENV_PIP = """#!/bin/sh
case "$*" in
"config get"*) exit 1 ;;
*" install --require-hashes --requirement /dev/stdin")
    [ "$(tr -cd a-z0-9=.:-)" = uv==1.2.3--hash=sha256:0 ] || { echo "other requirements" >&2; exit 70; }
    cp "$FAKES/venv-uv" "$(dirname "$0")/uv" ;;
*) echo "fake pip: $*" >&2; exit 70 ;;
esac
"""
# Names of lists, in the order in which they are installed.
VENV_UV = """#!/bin/sh
[ -z "${UV_FAILS-}" ] || { echo "no such version" >&2; exit 1; }
case "$*" in *--require-hashes*) ;; *) echo "hashes are not required" >&2; exit 70 ;; esac
installed=
while [ $# -gt 0 ]; do
    [ "$1" != --requirements ] || { installed="$installed $(basename "$(dirname "$2")")/$(basename "$2")"; shift; }
    shift
done
echo "installed$installed" >>"$LOG"
"""
CLI, LOCAL, TEST = "requirements/cli.txt", "requirements/local.txt", "requirements/test.txt"
PUBLISH = "serving_image/requirements.txt"


class Clone:
    """A checkout with nothing but what the launcher looks at."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "a clone"
        self.fakes = directory / "fakes"
        self._log = directory / "log"
        self._log.write_text("")
        for path in (CLI, LOCAL, TEST, PUBLISH):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text("uv==1.2.3 \\\n    --hash=sha256:0\n" if path == CLI else "x==1\n")
        shutil.copy(ROOT / "maas", self.root)
        self.fakes.mkdir()
        scripts = {"venv-python": VENV_PYTHON, "venv-pip": VENV_PIP, "venv-uv": VENV_UV} | dict.fromkeys(
            NAMES, PYTHON
        )
        for name, script in scripts.items():
            (self.fakes / name).write_text(script)
            (self.fakes / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.fakes}:/usr/bin:/bin"
        return {"PATH": path, "FAKES": str(self.fakes), "LOG": str(self._log), **more}

    def run(
        self, *arguments: str, launcher: Path | None = None, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [launcher or self.root / "maas", *arguments],
            cwd=cwd or self.root,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def log(self) -> list[str]:
        """What was made and installed since the last time this was asked."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_run_makes_the_environment_and_the_second_only_runs(clone: Clone) -> None:
    expected = [f"root {clone.root}", f"in {clone.root}", "<models>"]
    assert ran(clone.run("models")) == expected
    assert clone.log() == ["venv made", f"installed {CLI}"]
    second = clone.run("models")
    assert ran(second) == expected
    assert second.stderr == ""
    assert clone.log() == []


@pytest.mark.parametrize(
    ("arguments", "lists"),
    [
        ("", [CLI]),
        ("--help", [CLI]),
        ("models", [CLI]),
        ("pull iris@1", [CLI]),
        ("predict iris []", [CLI]),
        ("doctor", [CLI]),
        ("nonsense", [CLI]),
        ("up", [CLI, LOCAL]),
        ("up --help", [CLI]),
        ("down", [CLI, LOCAL]),
        ("preview local", [CLI, LOCAL]),
        ("deploy iris@1", [CLI, LOCAL]),
        ("status", [CLI, LOCAL]),
        ("logs iris", [CLI, LOCAL]),
        ("publish model", [CLI, PUBLISH]),
        ("check", [CLI, LOCAL, PUBLISH, TEST]),
        ("test", [CLI, LOCAL, PUBLISH, TEST]),
    ],
)
def test_a_command_has_installed_what_it_uses_and_no_more(
    arguments: str, lists: list[str], clone: Clone
) -> None:
    ran(clone.run(*arguments.split()))
    assert clone.log() == ["venv made", f"installed {' '.join(lists)}"]


def test_what_another_command_needs_is_added_when_it_comes(clone: Clone) -> None:
    expected: tuple[tuple[str, list[str]], ...] = (
        ("models", ["venv made", f"installed {CLI}"]),
        ("up", [f"installed {CLI} {LOCAL}"]),
        ("models", []),
    )
    for command, installed in expected:
        ran(clone.run(command))
        assert clone.log() == installed


@pytest.mark.parametrize("changed", [CLI, LOCAL])
def test_changed_requirements_are_noticed(changed: str, clone: Clone) -> None:
    ran(clone.run("up"))
    clone.log()
    path = clone.root / changed
    path.write_text(path.read_text() + "new==1\n")
    ran(clone.run("up"))
    assert clone.log() == [f"installed {CLI} {LOCAL}"]
    ran(clone.run("up"))
    assert clone.log() == []


def test_requirements_that_a_command_does_not_use_may_change(clone: Clone) -> None:
    ran(clone.run("models"))
    clone.log()
    (clone.root / TEST).write_text("new==1\n")
    ran(clone.run("models"))
    assert clone.log() == []


def test_it_works_from_any_directory_and_stays_there(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert ran(clone.run("models", cwd=tmp_path / "elsewhere")) == [
        f"root {clone.root}",
        f"in {tmp_path}/elsewhere",
        "<models>",
    ]


def test_it_works_through_a_symbolic_link_and_through_path(clone: Clone, tmp_path: Path) -> None:
    link = clone.fakes / "maas"
    (tmp_path / "hop").symlink_to(clone.root / "maas")
    link.symlink_to("../hop")
    for launcher in (link, Path("maas")):
        assert ran(clone.run("models", launcher=launcher, cwd=tmp_path))[0] == f"root {clone.root}"
    assert not (clone.fakes / ".venv").exists()


def test_arguments_and_the_exit_code_pass_unchanged(clone: Clone) -> None:
    arguments = ("predict", "iris", "[[5.1, 3.5]]", "", "it's $HOME *", "--", "-x")
    done = clone.run(*arguments, CLI_CODE="3")
    assert done.returncode == 3
    assert done.stdout.splitlines()[2:] == [f"<{argument}>" for argument in arguments]


def test_a_copied_clone_runs_its_own_code_and_not_the_originals(clone: Clone) -> None:
    ran(clone.run("models"))
    clone.log()
    clone.root = Path(shutil.copytree(clone.root, clone.root.with_name("a copy"), symlinks=True))
    assert ran(clone.run("models"))[0] == f"root {clone.root}"
    assert clone.log() == ["venv made", f"installed {CLI}"]


def test_a_moved_clone_works(clone: Clone) -> None:
    ran(clone.run("models"))
    clone.root = clone.root.rename(clone.root.with_name("another place"))
    assert ran(clone.run("models"))[0] == f"root {clone.root}"


def without_interpreter(environment: Path) -> None:
    """The distribution replaced the Python that it was made with."""
    (environment / "bin/python").unlink()
    (environment / "bin/python").symlink_to("/nonexistent/python3.11")


def cut_off(environment: Path) -> None:
    """Its making was interrupted before anything was installed."""
    (environment / "bin/uv").unlink()
    shutil.rmtree(environment / "installed")


def emptied(environment: Path) -> None:
    shutil.rmtree(environment)
    environment.mkdir()


@pytest.mark.parametrize("spoil", [without_interpreter, cut_off, emptied])
def test_a_broken_environment_is_made_anew(spoil: Callable[[Path], None], clone: Clone) -> None:
    ran(clone.run("models"))
    clone.log()
    spoil(clone.root / ".venv")
    ran(clone.run("models"))
    assert clone.log() == ["venv made", f"installed {CLI}"]


def test_a_python_that_is_too_old_is_one_clear_error(clone: Clone) -> None:
    done = clone.run("models", TOO_OLD="1")
    assert (done.returncode, done.stdout) == (1, "")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("installing ")]
    assert errors == [
        "error: Python: 3.11 or newer is needed and none was found;"
        " install it (Debian: apt-get install python3 python3-venv)"
    ]
    assert not (clone.root / ".venv").exists()


def test_packages_that_cannot_be_installed_are_an_error_and_are_tried_again(clone: Clone) -> None:
    done = clone.run("models", UV_FAILS="yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [
        "no such version",
        "error: Python packages could not be installed; see above",
    ]
    clone.log()
    ran(clone.run("models"))
    assert clone.log() == [f"installed {CLI}"]


def test_of_two_launchers_at_once_one_installs_and_both_run(clone: Clone) -> None:
    both = [
        subprocess.Popen(
            [clone.root / "maas", "models"],
            env=clone.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    for process in both:
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert out.endswith(b"<models>\n")
    assert clone.log() == ["venv made", f"installed {CLI}"]


def test_it_is_executable_and_a_script_that_sh_understands() -> None:
    assert os.access(ROOT / "maas", os.X_OK)
    subprocess.run(["sh", "-n", ROOT / "maas"], check=True)
