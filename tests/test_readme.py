"""The README is true: every command runs, and what it shows is what comes out, numbers aside."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SPEC = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
readme = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(readme)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("readme")
    readme.prepare(path)
    return path


def test_every_command_runs_and_shows_what_comes_out(folder):
    """One test, because later commands use what earlier ones made."""
    found = list(readme.commands(TEXT))
    assert len(found) > 10
    for command, shown in found:
        output = readme.run(command, folder)
        if shown is not None:
            assert readme.shape_of(output) == readme.shape_of(shown), command


def test_library_example_runs(folder):
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "True" in done.stdout.splitlines()[0]


def test_install_commands_are_the_makefiles():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_exit_codes_are_those_of_the_code():
    from edgecnn.errors import EXIT_CODES

    line = re.search(r"Exit codes: (.*?)\.", TEXT.replace("\n", " "))[1]
    assert {int(n) for n in re.findall(r"\b(\d+) ", line)} == set(EXIT_CODES)


@pytest.mark.parametrize("page", ["README.md", "edgecnn/README.md", "calibration/README.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_changelog_has_an_unreleased_section():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
