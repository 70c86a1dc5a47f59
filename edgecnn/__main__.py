"""The `edgecnn` command: runs the CLI and turns every failure into one message and a documented exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

from edgecnn.errors import EdgecnnError

INTERRUPTED = "interrupted; nothing was left half-written"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; `EDGECNN_DEBUG=1` adds tracebacks."""
    from edgecnn.cli.app import app  # typer is imported only when a command runs

    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    try:
        code = app(args=arguments, prog_name="edgecnn", standalone_mode=False)
    except EdgecnnError as error:
        _debug()
        return _fail(str(error), error.exit_code, as_json=as_json)
    except (KeyboardInterrupt, EOFError):
        return _fail(INTERRUPTED, 130, as_json=as_json)
    except BrokenPipeError:
        # The reader of a pipe went away (`edgecnn list nets | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _unexpected(error, as_json=as_json)
    if code == 130:  # typer catches the interrupt itself
        return _fail(INTERRUPTED, 130, as_json=as_json)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception, *, as_json: bool) -> int:
    if type(error).__module__.split(".")[0] in ("click", "typer"):
        return _usage(error, as_json=as_json)
    if isinstance(error, OSError) and error.errno is not None:
        _debug()
        what = f"the operating system refused: {error.strerror}" + (f" (`{error.filename}`)" if error.filename else "")
        return _fail(f"EnvironmentFailure: {what}", 5, as_json=as_json)
    if isinstance(error, MemoryError):
        return _fail("EnvironmentFailure: out of memory", 5, as_json=as_json)
    traceback.print_exc()
    return _fail(
        f"a bug in edgecnn: {type(error).__name__}: {error}\n  do       report it with the command and the lines above",
        70,
        as_json=as_json,
    )


def _usage(error: Exception, *, as_json: bool) -> int:
    code = getattr(error, "exit_code", 2)
    show = getattr(error, "show", None)
    if type(error).__name__ == "Abort":
        return _fail(INTERRUPTED, 130, as_json=as_json)
    if type(error).__name__ == "NoArgsIsHelpError":  # it has printed the help already
        return 2
    if as_json:
        return _fail(str(getattr(error, "message", error)), code, as_json=True)
    if callable(show):
        show()
    return int(code)


def _debug() -> None:
    if os.environ.get("EDGECNN_DEBUG"):
        traceback.print_exc()


def _fail(message: str, code: int, *, as_json: bool) -> int:
    print(message, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"exit_code": code, "message": message}}))
    return code


def console() -> None:
    """The entry point of the installed command."""
    # A terminated run cleans up like an interrupted one: temporary files go, caches stay whole.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    sys.exit(main())


if __name__ == "__main__":
    console()
