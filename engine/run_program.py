"""The child process that runs an unmodified Pulumi program, as Pulumi's own Python language host does.

It imports the SDK at once, then reads one line of JSON from stdin (the arguments of `reset_options`) and runs
the program, so that its parent can start it before there is a server. Configuration comes in PULUMI_CONFIG.
All that it says itself is the one error that a failing program ends with, over Engine.Log.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import runpy
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main() -> int:
    # It ends in a moment, and most of that moment is imports: a sixth of them was collecting no garbage.
    gc.disable()
    import pulumi
    import pulumi.runtime
    from pulumi.runtime import settings

    line = sys.stdin.readline()
    if not line:
        return 1  # the parent ended before it had work for this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    options = json.loads(line)
    directory = Path.cwd()
    sys.path.insert(0, str(directory))
    sys.argv = [str(directory)]
    config, secret_keys = pulumi.runtime.get_config_env(), pulumi.runtime.get_config_secret_keys_env()
    pulumi.runtime.set_all_config(config, secret_keys)
    settings.reset_options(root_directory=str(directory), **options)
    # What a failing program leaves unfinished is of no interest to its author.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=options["parallel"])
    loop.set_default_executor(executor)

    def program() -> None:
        # Returns nothing: run_in_stack would take a module's globals for something to await.
        runpy.run_path(str(directory), run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(program))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 (the process boundary)
        pulumi.log.error(describe(error, directory))
        return 1
    finally:
        executor.shutdown(wait=True)
    return 0


def _end_with_parent() -> None:
    """Its end closes stdin. The SDK alone would wait for ever for an engine that is gone."""
    os.read(
        sys.stdin.fileno(), 1
    )  # not sys.stdin.read: that holds a lock which the interpreter needs at its end
    os._exit(1)


def describe(error: Exception, directory: Path) -> str:
    """`file:line: Type: message`, the line being the last one of the user's own on the way to the error."""
    message, file, line = str(error), "", 0
    if isinstance(error, SyntaxError):
        message, file, line = error.msg, error.filename or "", error.lineno or 0
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            # A virtual environment often lies inside the project.
            if Path(frame.filename).is_relative_to(directory) and "site-packages" not in frame.filename:
                file, line = frame.filename, frame.lineno or 0
    place = f"{os.path.relpath(file, directory)}:{line}: " if file else ""
    return f"{place}{type(error).__name__}: {message}"


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the teardown of all those modules takes a tenth of a second of every command.
    os._exit(status)
