"""Reads and writes Caffe's binary files: .caffemodel weights, .solverstate and .binaryproto means.

Weights are also read in the old formats V1 (2014) and V0 (2013). Files are not trusted: sizes are checked before memory
is allocated, and any damage is reported as a one-line UserError.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from stylefinetune.caffe.schema import message_class
from stylefinetune.config.schema import MAX_LAYER_NAME
from stylefinetune.errors import UserError, joined_sizes

Blob = npt.NDArray[np.float32]

_LARGEST = 2**31 - 1  # bytes; protobuf's own limit
# An empty message takes 3 bytes in a file and 500 bytes in memory, so a file of many could exhaust the memory. The
# largest published nets have about 20,000 fields.
_MAX_FIELDS = 200_000
_MAX_AXES = 32  # Caffe's limit
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_HDF5 = b"\x89HDF\r\n"
HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclasses.dataclass(frozen=True)
class SolverState:
    """A snapshot of a Caffe solver."""

    iteration: int  # number of completed iterations
    learned_net: str  # path of the .caffemodel of the same iteration, as Caffe wrote it; may be empty
    momenta: list[Blob]  # of each learnable blob, in the net's order: each layer's weights, then its biases


def read_caffemodel(path: Path) -> dict[str, list[Blob]]:
    """Return the blobs of each layer that has any: weights, then biases, in Caffe's shapes.

    Raises:
        UserError: the file is missing or is not a .caffemodel.
    """
    net = _parse(path, "NetParameter", "a .caffemodel")
    layers: dict[str, list[Blob]] = {}
    for layer in (*net.layer, *(old.layer if old.HasField("layer") else old for old in net.layers)):
        if not layer.blobs:
            continue
        name = _text(layer.name, path)
        if name in layers:
            raise UserError(f"{path} has two layers called {name}, so their weights are ambiguous")
        layers[name] = [_array(blob, path) for blob in layer.blobs]
    if not layers:
        raise UserError(f"{path} has no weights; check that it is a .caffemodel")
    return layers


def write_caffemodel(path: Path, net: Message, layers: dict[str, list[Blob]]) -> None:
    """Write the NetParameter `net`, which is not changed, with the blobs of its `layers`, by layer name, atomically.

    Raises:
        UserError: it can't be written, or exceeds protobuf's limit.
    """
    size = sum(blob.nbytes for blobs in layers.values() for blob in blobs)
    if size + net.ByteSize() > _LARGEST:
        raise UserError(f"{path}: {size / 1e9:.1f} GB of weights; the limit of a .caffemodel is 2 GB")
    complete: Any = message_class("NetParameter")()
    complete.CopyFrom(net)
    remaining = dict(layers)
    for layer in complete.layer:
        for blob in remaining.pop(layer.name, []):
            _fill(layer.blobs.add(shape={"dim": blob.shape}), blob)
    assert not remaining
    _write(path, complete)


def read_solverstate(path: Path) -> SolverState:
    """Read a .solverstate.

    Raises:
        UserError: the file is missing or is not a .solverstate.
    """
    state = _parse(path, "SolverState", "a .solverstate")
    if not state.HasField("iter") or state.iter < 0 or not state.history:
        raise UserError(f"{path} has no iteration or no momenta; check that it is a .solverstate")
    learned_net = _text(state.learned_net, path) if state.learned_net else ""
    return SolverState(state.iter, learned_net, [_array(blob, path) for blob in state.history])


def read_mean(path: Path) -> Blob:
    """Return the picture of a .binaryproto: float32 [3, H, W], BGR.

    Raises:
        UserError: the file is missing or has no picture with three channels.
    """
    mean = _array(_parse(path, "BlobProto", "a .binaryproto"), path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise UserError(f"{path} has a blob of {joined_sizes(mean.shape)}, not a mean picture of 3 channels")
    return mean


def write_mean(path: Path, mean: Blob) -> None:
    """Write a mean picture, float32 [3, H, W], BGR.

    Raises:
        UserError: it can't be written.
    """
    message: Any = message_class("BlobProto")()
    # The old format, which all of Caffe's tools can read.
    message.num, message.channels, message.height, message.width = 1, *mean.shape
    _fill(message, mean)
    _write(path, message)


def _write(path: Path, message: Message) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(message.SerializeToString())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _parse(path: Path, name: str, kind: str) -> Any:  # noqa: ANN401 -- see message_class
    content = _read(path)
    if content.startswith(_HDF5):
        raise UserError(f"{path} is an HDF5 file; let Caffe write it with snapshot_format: BINARYPROTO")
    message = message_class(name)
    try:
        if _count_fields(content, message.DESCRIPTOR) > _MAX_FIELDS:
            raise UserError(f"{path} has more than {_MAX_FIELDS} fields, more than any net; it is not {kind}")
        return message.FromString(content)
    except (DecodeError, IndexError) as error:
        raise UserError(f"{path} is not {kind}, or is damaged") from error


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} can't be read: it is not a regular file")
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than 2 GB, the limit of Caffe's files")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} can't be a file's name: {error}") from error


def _count_fields(content: bytes, descriptor: Descriptor) -> int:
    """Return the number of fields of a message, nested ones included; the count ends soon after _MAX_FIELDS.

    Raises:
        IndexError: the bytes end too early.
    """
    count = 0
    pending = [(descriptor, 0, len(content))]
    while pending and count <= _MAX_FIELDS:
        descriptor, position, end = pending.pop()
        while position < end and count <= _MAX_FIELDS:
            count += 1
            tag, position = _read_varint(content, position)
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, position = _read_varint(content, position)
            elif wire_type == _LENGTH_DELIMITED:
                size, position = _read_varint(content, position)
                field = descriptor.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    pending.append((field.message_type, position, min(position + size, end)))
                elif field is not None and field.type == FieldDescriptor.TYPE_INT64:
                    count += size  # packed: each byte may be a number
                position += size
            else:
                position += {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
    return count


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return protobuf's variable-length integer at `position`, and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            return value, position


def _text(name: str | bytes, path: Path) -> str:
    """Check a name; protobuf returns bytes if it is not UTF-8."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_LAYER_NAME:
        raise UserError(f"{path}: a name in it is not text, {name[:20]!r}; it is damaged")
    return name


def _array(blob: Any, path: Path) -> Blob:  # noqa: ANN401 -- see message_class
    with np.errstate(over="ignore"):  # doubles out of float32's range become infinite
        values = np.asarray(blob.double_data or blob.data, np.float32)
    shape = list(blob.shape.dim)
    if not blob.HasField("shape"):
        shape = [blob.num, blob.channels, blob.height, blob.width]
    if len(shape) > _MAX_AXES:
        raise UserError(f"{path}: a blob has {len(shape)} axes, more than Caffe allows; it is damaged")
    if min(shape, default=1) < 1 or math.prod(shape) != len(values):
        raise UserError(f"{path}: a blob of shape {joined_sizes(shape)} has {len(values)} values; it is damaged")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: a blob has values that are not finite; the run diverged, or the file is damaged")
    return values.reshape(shape)


def _fill(message: Any, blob: Blob) -> None:  # noqa: ANN401 -- see message_class
    """Set the data of a BlobProto. PackedFloats has the same encoding, and needs no Python float for each value."""
    values = np.ascontiguousarray(blob, "<f4").tobytes()
    message.MergeFromString(message_class("PackedFloats")(data=values).SerializeToString())
