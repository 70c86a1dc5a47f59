"""Runs every static check and says which failed: ruff (rules, format, 3.8 for the device), mypy strict, import-linter.

python scripts/check.py          check, as `make lint` and `.ci/run` do
python scripts/check.py --fix    let ruff correct and format first
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sysconfig.get_path("scripts"))

CHECKS: dict[str, list[str]] = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--quiet", "--diff", "."],
    # Devices have older Pythons than the host (JetPack 5: 3.8); this finds syntax that they cannot parse.
    "runtime on 3.8": ["ruff", "check", "--quiet", "--target-version", "py38", "--select", "F", "edgecnn/runtime"],
    "mypy": ["mypy", "--no-error-summary"],
    "import-linter": ["lint-imports", "--no-logo"],
}
FIXES: dict[str, list[str]] = {
    "ruff check --fix": ["ruff", "check", "--quiet", "--fix", "."],
    "ruff format": ["ruff", "format", "--quiet", "."],
}


def run(name: str, command: list[str]) -> bool:
    """Runs one tool of this Python's environment; prints its name and time, and its output if it failed."""
    tool, *arguments = command
    if not (BIN / tool).exists():
        print(f"  {name:<18}not installed: python -m pip install -e '.[dev]'")
        return False
    begin = time.perf_counter()
    done = subprocess.run(
        [BIN / tool, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    passed = done.returncode == 0
    print(f"  {name:<18}{'ok' if passed else 'FAILED':<8}{time.perf_counter() - begin:5.1f} s", flush=True)
    if not passed:
        print(done.stdout, flush=True)
    return passed


def main(arguments: list[str]) -> int:
    if unknown := [a for a in arguments if a != "--fix"]:
        print(f"unknown option `{unknown[0]}`; there is --fix")
        return 2
    if arguments:
        for name, command in FIXES.items():
            run(name, command)
    failed = [name for name, command in CHECKS.items() if not run(name, command)]
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
