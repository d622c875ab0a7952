"""Run the model server: `python -m serving_image.server`. Settings come from the environment."""

from __future__ import annotations

import os
import sys

from serving_image.server.settings import available_cpus


def main() -> int:
    cpus = available_cpus()
    # With a thread for every core of the machine, numeric libraries would fight over the container's share.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(cpus))
    # Not earlier: numpy reads these when it is imported.
    from serving_image.server.process import run

    return run(cpus)


if __name__ == "__main__":
    sys.exit(main())
