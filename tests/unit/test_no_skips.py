"""The option that CI runs with, on small suites of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIPPING = {
    "test_call": "import pytest\ndef test_it():\n    pytest.skip('reason 1')\ndef test_other(): ...",
    "test_mark": "import pytest\n@pytest.mark.skipif(True, reason='reason 2')\ndef test_it(): ...",
    "test_fixture": "import pytest\n@pytest.fixture\ndef it(): pytest.skip('reason 3')\ndef test_it(it): ...",
    "test_module": "import pytest\npytest.skip('reason 4', allow_module_level=True)",
    "test_import": "import pytest\npytest.importorskip('no_such_module', reason='reason 5')",
}
RUNNING = {
    "test_xfail": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False",
    "test_pass": "def test_it(): ...",
}


def run(directory: Path, modules: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, directory)
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(source)
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={directory}"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *options, directory], env=environment, capture_output=True, text=True, check=False
    )


def test_a_skip_fails_the_run_and_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPING, "--no-skips")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    _, _, refused = done.stdout.partition("skipped, which --no-skips refuses")
    for number, module in enumerate(SKIPPING, start=1):
        (line,) = (line for line in refused.splitlines() if line.startswith(f"{module}.py"))
        assert line.endswith(f": reason {number}")


@pytest.mark.parametrize(("modules", "options"), [(SKIPPING, ()), (RUNNING, ("--no-skips",))])
def test_nothing_else_changes(modules: dict[str, str], options: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, modules, *options)
    assert done.returncode == pytest.ExitCode.OK
    assert "--no-skips refuses" not in done.stdout
