"""The process boundary: every error becomes one message and an exit code; no traceback reaches a user."""

from __future__ import annotations

import signal
import sys
import tempfile
import traceback

import typer

_INTERRUPTED = 130
_ROOMS = frozenset({"cli", "engine", "infra", "machine", "operations", "serving_image"})


def main() -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    from cli.commands import app

    # To end in order: what is half made is undone, what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False, prog_name="maas") or 0
    except typer.Exit as exit_:
        code = exit_.exit_code
    except typer.TyperException as error:
        print(
            f"error: {error.format_message().rstrip('.')}; ./maas --help shows what there is", file=sys.stderr
        )
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001
        if (
            type(error).__module__.partition(".")[0] in _ROOMS
        ):  # raised on purpose, with a message for the user
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, OSError):  # a full disk, a directory that may not be written
            print(
                f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}",
                file=sys.stderr,
            )
        else:
            with tempfile.NamedTemporaryFile("w", prefix="maas-", suffix=".txt", delete=False) as report:
                traceback.print_exc(file=report)
            name = type(error).__name__
            print(
                f"error: unexpected {name}: {error}\nThis is a defect; details: {report.name}",
                file=sys.stderr,
            )
        return 1
    if code == _INTERRUPTED:  # to which typer turns Ctrl-C, without a word
        print("\ninterrupted; nothing is half-written, the same command continues", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
