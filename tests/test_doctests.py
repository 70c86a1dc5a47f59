"""The examples in docstrings run as written."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import edgecnn

MODULES = [
    m.name
    for m in pkgutil.walk_packages(edgecnn.__path__, "edgecnn.")
    if not m.name.endswith("__main__") and "_shipped" not in m.name
]


def with_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in ["edgecnn", *MODULES]:
        module = importlib.import_module(name)
        yield from (t for t in finder.find(module, name) if t.examples)


@pytest.mark.parametrize("test", list(with_examples()), ids=lambda t: t.name)
def test_example(test):
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.attempted > 0
    assert results.failed == 0
