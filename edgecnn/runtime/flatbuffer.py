"""Reads what a .tflite file says about itself with nothing but `struct`, and finds files that were cut short.

The Python interpreter does not hand out a model's metadata, and given a truncated file it reads past its end and takes
the process with it. Every offset is therefore followed with its bounds checked before an engine sees the file.

Source: the FlatBuffers binary format and TFLite's schema, tables `Model`, `SubGraph`, `Buffer` and `Metadata`.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Dict, Iterator, Optional, Tuple, Union

from .errors import BadArtifact

Bytes = Union[bytes, "mmap.mmap"]

# The position of each field in its table, by the schema.
MODEL_OPERATOR_CODES, MODEL_SUBGRAPHS, MODEL_BUFFERS, MODEL_METADATA = 1, 2, 4, 6
SUBGRAPH_TENSORS, SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS, SUBGRAPH_OPERATORS = 0, 1, 2, 3
TENSOR_SHAPE, TENSOR_NAME = 0, 3
OPERATOR_INPUTS, OPERATOR_OUTPUTS = 1, 2
BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE = 0, 1, 2
METADATA_NAME, METADATA_BUFFER = 0, 1


class Damaged(Exception):
    """An offset points outside of the file."""


class Table:
    """A table of a flatbuffer at `position`; fields are addressed by their number in the schema."""

    def __init__(self, data: Bytes, position: int) -> None:
        self.data, self.position = data, position
        self.vtable = position - _number(data, position, "<i")
        self.vtable_size = _number(data, self.vtable, "<H")

    def _field(self, number: int) -> Optional[int]:
        entry = 4 + 2 * number
        if entry + 2 > self.vtable_size:
            return None
        offset = _number(self.data, self.vtable + entry, "<H")
        return self.position + offset if offset else None

    def scalar(self, number: int, kind: str) -> int:
        """An integer field; 0 where it is absent."""
        at = self._field(number)
        return 0 if at is None else _number(self.data, at, kind)

    def blob(self, number: int, item_size: int = 1) -> Tuple[int, int]:
        """First byte and number of items of a vector field; (0, 0) where it is absent."""
        at = self._field(number)
        if at is None:
            return 0, 0
        start = at + _number(self.data, at, "<I")
        count = _number(self.data, start, "<I")
        if start + 4 + count * item_size > len(self.data):
            raise Damaged()
        return start + 4, count

    def raw(self, number: int) -> bytes:
        """The bytes of a vector of bytes, or of a string."""
        start, count = self.blob(number)
        return bytes(self.data[start : start + count])

    def tables(self, number: int) -> Iterator["Table"]:
        """The tables of a vector of tables."""
        start, count = self.blob(number, 4)
        for at in range(start, start + 4 * count, 4):
            yield Table(self.data, at + _number(self.data, at, "<I"))


def _number(data: Bytes, at: int, kind: str) -> int:
    if at < 0 or at + struct.calcsize(kind) > len(data):
        raise Damaged()
    value: int = struct.unpack_from(kind, data, at)[0]
    return value


def read_metadata(path: str) -> Dict[str, str]:
    """The metadata entries of a .tflite file that are text, after a check that the file is whole.

    Raises:
        BadArtifact: the file is not a TFLite model or was cut short.
    """
    name = os.path.basename(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] != b"TFL3":
            raise BadArtifact(
                f"`{name}` is not a TFLite model: bytes 4 to 8 are not `TFL3`",
                where=path,
                do="write or download the file again",
            )
        try:
            model = Table(data, _number(data, 0, "<I"))
            _walk(model)
            return _text_entries(model)
        except Damaged:
            raise BadArtifact(
                f"`{name}` is damaged: it has {len(data)} bytes and refers to bytes beyond them",
                where=path,
                do="write or download the file again",
            ) from None


def _walk(model: Table) -> None:
    for buffer in model.tables(MODEL_BUFFERS):
        buffer.blob(BUFFER_DATA)
        if buffer.scalar(BUFFER_OFFSET, "<Q") + buffer.scalar(BUFFER_SIZE, "<Q") > len(model.data):
            raise Damaged()
    for code in model.tables(MODEL_OPERATOR_CODES):
        code.scalar(0, "<b")
    for graph in model.tables(MODEL_SUBGRAPHS):
        graph.blob(SUBGRAPH_INPUTS, 4)
        graph.blob(SUBGRAPH_OUTPUTS, 4)
        for tensor in graph.tables(SUBGRAPH_TENSORS):
            tensor.blob(TENSOR_SHAPE, 4)
            tensor.blob(TENSOR_NAME)
        for operator in graph.tables(SUBGRAPH_OPERATORS):
            operator.blob(OPERATOR_INPUTS, 4)
            operator.blob(OPERATOR_OUTPUTS, 4)


def _text_entries(model: Table) -> Dict[str, str]:
    buffers = list(model.tables(MODEL_BUFFERS))
    entries: Dict[str, str] = {}
    for entry in model.tables(MODEL_METADATA):
        index = entry.scalar(METADATA_BUFFER, "<I")
        if index >= len(buffers):
            raise Damaged()
        try:
            # Vendors pad some entries with zero bytes.
            entries[entry.raw(METADATA_NAME).decode()] = buffers[index].raw(BUFFER_DATA).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            continue  # A binary entry, such as the vendor's own nested flatbuffer.
    return entries
