"""The rules of the house that no single room can keep alone: who may import whom, what every file must leave out."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("cli", "engine", "infra", "machine", "operations", "serving_image")

# From a room to what it may import of others: whole rooms, or single modules, each with its reason.
ALLOWED: dict[str, dict[str, str]] = {
    "cli": {
        "operations": "what is done to a running platform",
        "engine": "what runs the program",
        "machine": "what stands in for a cloud",
        "infra.config": "the typed settings that it hands from the stack file to the others",
    },
    "operations": {
        "infra.config": "the typed settings",
        "infra.naming": "pure: where the program put what is looked at",
        "serving_image.manifest": "the schema of an artifact",
        "serving_image.describe": "the only maker of manifests, of the very runtimes that will serve them",
    },
    "engine": {},
    "infra": {},
    "machine": {},
    "serving_image": {},
    # What the Pulumi CLI starts.
    "__main__.py": {"infra": "the program"},
    "examples": {"serving_image": "an example's artifact is made as everybody's is"},
    "bench": {"machine": "how much memory the platform holds is asked of its control group"},
}


@cache
def tracked() -> tuple[Path, ...]:
    """Every file in git. A checkout that belongs to another user, as in a container, is read all the same."""
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Path from the root and content of every text file."""
    for path in tracked():
        try:
            yield str(path.relative_to(ROOT)), path.read_text()
        except UnicodeDecodeError:  # a model file
            continue


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of every import, those in functions and for type checkers included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from infra import naming` imports a module; `from infra.config import Settings` a name of one.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def sources(room: str) -> list[Path]:
    top = ROOT / room
    if top.is_file():
        return [top]
    return sorted(path for path in tracked() if path.suffix == ".py" and top in path.parents)


def foreign(room: str) -> Iterator[tuple[str, str]]:
    """(where, what) of every import from another room."""
    for path in sources(room):
        for line, name in imports(path):
            top = name.partition(".")[0]
            if top in {*ROOMS, "bench", "tests", "examples"} and top != room:
                yield f"{path.relative_to(ROOT)}:{line}", name


def within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def test_every_room_is_under_these_rules() -> None:
    python = {path.relative_to(ROOT).parts[0] for path in tracked() if path.suffix == ".py"}
    assert python - {"tests"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_of_others_what_it_may_and_nothing_else(room: str) -> None:
    assert sources(room)
    refused = {
        where: name
        for where, name in foreign(room)
        if not any(within(name, module) for module in ALLOWED[room])
    }
    assert refused == {}


@pytest.mark.parametrize("room", ALLOWED)
def test_nothing_is_allowed_that_is_not_used(room: str) -> None:
    used = {module for _, name in foreign(room) for module in ALLOWED[room] if within(name, module)}
    assert used == set(ALLOWED[room])


def test_imports_are_seen_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above are as good as this."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    source = tmp_path / "machine" / "inner" / "it.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import a.b, c as d\n"
        "from e import f as g\n"
        "from .. import h\n"
        "from .i import j\n"
        "if TYPE_CHECKING:\n    from k import l\n"
        "def function():\n    try:\n        import m\n    except ImportError:\n        from n.o import *\n"
    )
    found = [name for _, name in sorted(imports(source))]
    assert found == ["a.b", "c", "e.f", "machine.h", "machine.inner.i.j", "k.l", "m", "n.o.*"]


PACKAGES = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for path in tracked()
    if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] != "tests"
)


def test_every_room_is_a_package() -> None:
    assert set(ROOMS) <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_what_it_is_not_for(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))
    assert docstring is not None
    first, _, rest = docstring.partition("\n\n")
    assert len(first.split()) >= 5
    assert re.search(r"\b(not|neither|nothing)\b", rest)


# What a file says about the machine it was written on, or about where one organisation gets its packages.
SECRETS_OF_A_MACHINE = {
    "a developer's directory": r"(?<![\w.])/(?:work|root|workspace|Users)/\w",
    "a scratch file": r"(?<![\w.])/(?:tmp|var/tmp)/\w",
    "a package index": r"pypi\.org|pythonhosted\.org|--(?:extra-)?index-url|--find-links|--trusted-host",
    "a distribution's mirror": r"\b(?:deb|security|ftp)\.(?:\w+\.)?debian\.org",
    "a Go proxy": r"proxy\.golang\.org|sum\.golang\.org|GOPROXY=|GONOSUM",
}


@pytest.mark.parametrize("what", SECRETS_OF_A_MACHINE)
def test_no_file_names_a_machine_or_where_packages_come_from(what: str) -> None:
    pattern = re.compile(SECRETS_OF_A_MACHINE[what])
    this = str(Path(__file__).relative_to(ROOT))
    found = {path: match[0] for path, text in texts() if path != this and (match := pattern.search(text))}
    assert found == {}


def test_no_image_is_named_by_a_tag() -> None:
    tag = re.compile(r"[\w/.-]+:latest\b|^FROM +[\w/.-]+(:\S+)?$", re.MULTILINE)
    outside_tests = (it for it in texts() if not it[0].startswith("tests/"))  # these show that one is refused
    assert {path: match[0] for path, text in outside_tests if (match := tag.search(text))} == {}


LOCKS = sorted(path for path in tracked() if path.name.endswith(".txt") and path.with_suffix(".in").exists())
INPUTS = sorted(path.with_suffix(".in") for path in LOCKS)
PIN = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[\w,-]+\])?==([^\s;\\]+)(?: ; ([^\\]+?))? ?\\?$", re.MULTILINE
)


def pins(path: Path) -> dict[str, set[str]]:
    """Versions of each package; more than one where they differ between Pythons or platforms."""
    found = defaultdict(set)
    for name, version, _ in PIN.findall(path.read_text()):
        found[re.sub(r"[-_.]+", "-", name).lower()].add(version)
    return found


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_list_that_the_launcher_installs_is_locked() -> None:
    launcher = (ROOT / "maas").read_text()
    lists = {name for group in re.findall(r'lists="?([\w ]+)', launcher) for name in group.split()}
    lists -= {"publish"}  # the serving image's own
    assert lists == {"cli", "local", "test"}
    assert {f"requirements/{name}.txt" for name in lists} | {
        "serving_image/requirements.txt",
        "requirements.txt",
    } <= {named(path) for path in LOCKS}


@pytest.mark.parametrize("path", LOCKS, ids=named)
def test_every_locked_line_is_a_pin_with_hashes(path: Path) -> None:
    logical = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in logical.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(
            r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==\S+( ; .*?)?\s*--hash=sha256:[0-9a-f]{64}", line
        ), line[:80]


def test_a_package_has_the_same_version_in_every_list() -> None:
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    for path in LOCKS:
        for name, found in pins(path).items():
            versions[name][named(path)] = " ".join(sorted(found))
    assert {name: lists for name, lists in versions.items() if len(set(lists.values())) > 1} == {}


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_what_is_asked_for_is_pinned_and_locked(path: Path) -> None:
    found = re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE)
    asked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(asked) == len(lines)
    locked = pins(path.with_suffix(".txt"))
    assert {name: version for name, version in asked.items() if locked[name] != {version}} == {}


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_every_package_has_a_reason(path: Path) -> None:
    """Beside it, or above it in the block that it stands in."""
    for block in re.split(r"\n\s*\n", path.read_text().strip()):
        explained = False
        for line in block.splitlines():
            explained = explained or "# " in line
            assert explained, f"{line}: why?"


def test_plain_pulumi_installs_what_the_program_imports() -> None:
    """`pulumi install` reads requirements.txt and nothing else."""
    assert {"pulumi", "pulumi-kubernetes"} <= set(pins(ROOT / "requirements.txt"))
    assert set(pins(ROOT / "requirements.txt")) <= set(pins(ROOT / "requirements" / "local.txt"))
