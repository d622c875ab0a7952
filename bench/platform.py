"""How long `./maas` takes on this machine, and how much memory the idle platform holds.

    python -P -m bench.platform            # with the caches there are
    python -P -m bench.platform --first    # and a first `up` without any: adds about ten minutes

Commands run in a fresh clone of the last commit, on a platform of their own (state below /var/lib/maas-bench).
Ports 30080 and 30081 must be free. Writes results/platform.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from machine import cgroups
from machine.configuration import KUBERNETES_VERSION
from machine.layout import Layout

ROOT = Path(__file__).parents[1]
STATE = Path("/var/lib/maas-bench")
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--first", action="store_true", help="also measure a first `up`, with no cache at all"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        results = measure(Path(directory), first=arguments.first)
    path = ROOT / "bench" / "results" / "platform.json"
    previous = json.loads(path.read_text())["seconds"] if path.exists() else {}
    if not arguments.first and "first up" in previous:
        results["seconds"]["first up"] = previous["first up"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measure(directory: Path, *, first: bool) -> dict[str, dict[str, object]]:
    clone = directory / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {"MAAS_STATE_DIR": str(STATE)}
    seconds: dict[str, object] = {}

    def run(*command: str, extra: Mapping[str, str] | None = None) -> float:
        started = time.monotonic()
        done = subprocess.run(
            ["./maas", *command],
            cwd=clone,
            env=os.environ | environment | dict(extra or {}),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        took = time.monotonic() - started
        if done.returncode != 0:
            raise SystemExit(
                f"maas {' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return took

    if first:
        cold = {
            "MAAS_CACHE_DIR": str(directory / "cache"),
            "UV_CACHE_DIR": str(directory / "uv"),
            "PIP_NO_CACHE_DIR": "1",
        }
        seconds["first up"] = {
            "value": round(run("up", extra=cold)),
            "machine": _machine(),
            "note": "fresh clone, no caches; the distribution packages were there already",
        }
        run("down", "--purge", extra=cold)
    run("down")
    run("up")
    run("down")
    seconds["up, stopped, caches warm: to the first answer"] = _summary([_again(run) for _ in range(3)])
    run("up")
    seconds["up, nothing to do"] = _summary([run("up") for _ in range(RUNS)])
    seconds["preview local"] = _summary([run("preview", "local") for _ in range(RUNS)])
    seconds["--help"] = _summary([run("--help") for _ in range(RUNS)])
    memory = _idle_memory()
    run("down")
    shutil.rmtree(STATE, ignore_errors=True)
    return {"machine": _machine(), "seconds": seconds, "memory": memory}


def _again(run: object) -> float:
    assert callable(run)
    run("down")
    return float(run("up"))


def _summary(values: list[float]) -> dict[str, object]:
    return {
        "min": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "max": round(max(values), 2),
        "runs": len(values),
    }


def _idle_memory() -> dict[str, object]:
    """Proportional set sizes of every process of the platform, pods included, after the autoscaler's first look."""
    time.sleep(60)
    layout = Layout(state=STATE, cache=Path("/nonexistent"))
    kib: dict[str, int] = {}
    for pid in cgroups.members(layout):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        kib[name] = kib.get(name, 0) + pss
    by_size = sorted(kib.items(), key=lambda item: -item[1])
    return {
        "total_mib": round(sum(kib.values()) / 1024),
        "by_command_mib": {k: round(v / 1024) for k, v in by_size},
    }


def _machine() -> dict[str, object]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "kubernetes": KUBERNETES_VERSION,
    }


if __name__ == "__main__":
    main()
