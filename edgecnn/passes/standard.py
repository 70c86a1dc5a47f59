"""The rewrites that every target wants, their order, and how any list of them is run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from edgecnn.errors import EdgecnnError
from edgecnn.ir.graph import Graph, Note, Pass
from edgecnn.passes.cleanup import cleanup
from edgecnn.passes.fold_batchnorm import fold_batchnorm
from edgecnn.passes.fuse_activation import fuse_activation
from edgecnn.passes.input_map import fold_input_map
from edgecnn.passes.merge_branches import merge_branches
from edgecnn.passes.pool_first import pool_first
from edgecnn.passes.share_concat import share_concat

LEAST_DB = 36.0
"""Of weights over their rounding where branches become one convolution. The 576 taps of a 3x3 kernel on 64 channels, if
normally distributed, reach 3.3 sigma and so have 42 dB in 8 bits; this is a bit less. Float targets merge all."""

STANDARD: tuple[Pass, ...] = (
    cleanup,  # nothing idle stands between a layer and its batch norm
    fold_input_map,  # before a batch norm on the input becomes a layer of its own
    fold_batchnorm,  # before activations are fused: a map cannot pass a clip
    cleanup,  # `conv + 3`, now that the conv is next to it
    partial(merge_branches, least_db=LEAST_DB),  # of layers that hold their batch norms
    fuse_activation,
    cleanup,  # `clip(conv + 3, 0, 6) / 6`, now that the clip is in the conv
    pool_first,  # now that it is known which convolutions have an activation
    share_concat,
)
"""Float rewrites that keep every value and make no op that some target lacks."""


def run_passes(graph: Graph, passes: Iterable[Pass]) -> tuple[Graph, list[Note]]:
    """The graph after `passes` in order, and their notes.

    Of the notes on places that were left alone, only those are kept whose place still stands in the final graph and
    that no later pass took back; the rest would explain what is not there any more.

    Raises:
        EdgecnnError: a pass broke the graph, which is a bug; the message names the pass. Errors that passes raise to
            explain wrong options go through as they are.
    """
    notes: list[Note] = []
    for rewrite in passes:
        try:
            graph, said = rewrite(graph)
        except EdgecnnError:
            raise
        except Exception as error:
            raise EdgecnnError(
                f"the pass `{pass_name(rewrite)}` failed on `{graph.name}`",
                got=f"{type(error).__name__}: {error}",
                do="this is a bug in edgecnn: please report it with the net, the target and its options",
            ) from error
        notes = _superseded(notes, said)
    return graph, [note for note in notes if note.did or note.at in graph.makers]


def pass_name(rewrite: Pass) -> str:
    """The name of a pass, also of one whose parameters are bound by `functools.partial`."""
    while isinstance(rewrite, partial):
        rewrite = rewrite.func
    return getattr(rewrite, "__name__", type(rewrite).__name__).strip("_")


def _superseded(notes: list[Note], new: list[Note]) -> list[Note]:
    said = {(note.rule, note.at) for note in new}
    return [note for note in notes if note.did or (note.rule, note.at) not in said] + new
