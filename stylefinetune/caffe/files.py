"""Caffe's binary files: .caffemodel weights, read in the new and the old V1 form; .solverstate; .binaryproto means.

A file may come from anywhere: what it says of itself is checked before memory is given for it, and whatever is wrong
with it is one line.
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
from stylefinetune.errors import UserError

Blob = npt.NDArray[np.float32]

_LARGEST = 2**31 - 1  # bytes; protobuf's own limit
# An empty message takes 3 bytes in a file and 500 in memory: a file of nothing else would fill any machine. The largest
# published nets have some 20,000 fields.
_MAX_FIELDS = 200_000
_MAX_AXES = 32  # Caffe's own limit
_MAX_NAME = 200  # characters
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_HDF5 = b"\x89HDF\r\n"


@dataclasses.dataclass(frozen=True)
class SolverState:
    """A Caffe solver's snapshot.

    Attributes:
        iteration: iterations done.
        learned_net: the .caffemodel of the same moment, as the path that Caffe wrote; empty where it named none.
        momenta: the update history of each learnable blob, in the net's order: each layer's weights, then its biases.
    """

    iteration: int
    learned_net: str
    momenta: list[Blob]


def read_caffemodel(path: Path) -> dict[str, list[Blob]]:
    """Returns the blobs of each layer that has any: its weights, then its biases, in Caffe's shapes.

    Raises:
        UserError: the file is missing or no .caffemodel.
    """
    net = _parse(path, "NetParameter", "a .caffemodel")
    layers: dict[str, list[Blob]] = {}
    for layer in (*net.layer, *net.layers):
        if not layer.blobs:
            continue
        name = _text(layer.name, path)
        if name in layers:
            raise UserError(f"{path} holds two layers called {name}; which one is meant can't be told")
        layers[name] = [_array(blob, path) for blob in layer.blobs]
    if not layers:
        raise UserError(f"{path} holds no weights; is it a .caffemodel?")
    return layers


def write_caffemodel(path: Path, net: Message, layers: dict[str, list[Blob]]) -> None:
    """Writes a NetParameter and the blobs of its layers, whole or not at all.

    Args:
        path: the file.
        net: describes the layers; stays as it is.
        layers: blobs by the names of layers that `net` has.

    Raises:
        UserError: it can't be written, or protobuf can't hold it.
    """
    size = sum(blob.nbytes for blobs in layers.values() for blob in blobs)
    if size + net.ByteSize() > _LARGEST:
        raise UserError(f"{path}: {size / 1e9:.1f} GB of weights; a .caffemodel holds 2 GB at most")
    whole: Any = message_class("NetParameter")()
    whole.CopyFrom(net)
    unwritten = dict(layers)
    for layer in whole.layer:
        for blob in unwritten.pop(layer.name, []):
            _fill(layer.blobs.add(shape={"dim": blob.shape}), blob)
    assert not unwritten
    _write(path, whole)


def read_solverstate(path: Path) -> SolverState:
    """Reads a .solverstate.

    Raises:
        UserError: the file is missing or no .solverstate.
    """
    state = _parse(path, "SolverState", "a .solverstate")
    if not state.HasField("iter") or state.iter < 0 or not state.history:
        raise UserError(f"{path} holds no iteration and no momenta; is it a .solverstate?")
    learned_net = _text(state.learned_net, path) if state.learned_net else ""
    return SolverState(state.iter, learned_net, [_array(blob, path) for blob in state.history])


def read_mean(path: Path) -> Blob:
    """Returns a .binaryproto's picture: float32 [3, H, W], BGR.

    Raises:
        UserError: the file is missing or holds no picture of three channels.
    """
    mean = _array(_parse(path, "BlobProto", "a .binaryproto"), path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise UserError(f"{path} holds a blob of {_sizes(mean.shape)}, not a mean picture of 3 channels")
    return mean


def write_mean(path: Path, mean: Blob) -> None:
    """Writes a mean picture, float32 [3, H, W], BGR.

    Raises:
        UserError: it can't be written.
    """
    message: Any = message_class("BlobProto")()
    # In the old form, the only one that all of Caffe's tools read.
    message.num, message.channels, message.height, message.width = 1, *mean.shape
    _fill(message, mean)
    _write(path, message)


def _write(path: Path, message: Message) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(message.SerializeToString())
        beside.replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def _parse(path: Path, name: str, kind: str) -> Any:  # noqa: ANN401 -- see message_class
    body = _read(path)
    if body.startswith(_HDF5):
        raise UserError(f"{path} is an HDF5 file; have Caffe write it anew with snapshot_format: BINARYPROTO")
    message = message_class(name)
    try:
        if _count_fields(body, message.DESCRIPTOR) > _MAX_FIELDS:
            raise UserError(f"{path} has more than {_MAX_FIELDS} fields, as no net has; it is not {kind}")
        return message.FromString(body)
    except (DecodeError, IndexError) as error:
        raise UserError(f"{path} is not {kind}, or is damaged") from error


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} can't be read: it is no file")
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than 2 GB, which no file of Caffe's is")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} can't be a file's name: {error}") from error


def _count_fields(body: bytes, descriptor: Descriptor) -> int:
    """Returns how many fields a message and those within it have, or a number above _MAX_FIELDS once it is passed.

    Raises:
        IndexError: the bytes end too early.
    """
    count = 0
    pending = [(descriptor, 0, len(body))]
    while pending and count <= _MAX_FIELDS:
        descriptor, place, end = pending.pop()
        while place < end and count <= _MAX_FIELDS:
            count += 1
            tag, place = _varint(body, place)
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, place = _varint(body, place)
            elif wire_type == _LENGTH_DELIMITED:
                size, place = _varint(body, place)
                field = descriptor.fields_by_number.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    pending.append((field.message_type, place, min(place + size, end)))
                elif field is not None and field.type == FieldDescriptor.TYPE_INT64:
                    count += size  # packed: each byte may be a number
                place += size
            else:
                place += {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
    return count


def _varint(body: bytes, place: int) -> tuple[int, int]:
    """Returns protobuf's variable-length integer at `place`, and the place after it."""
    value = shift = 0
    while True:
        byte = body[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            return value, place


def _text(name: str | bytes, path: Path) -> str:
    """Checks a name; protobuf hands out as bytes what isn't UTF-8."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise UserError(f"{path}: a name in it is no text, {name[:20]!r}; it is damaged")
    return name


def _array(blob: Any, path: Path) -> Blob:  # noqa: ANN401 -- see message_class
    with np.errstate(over="ignore"):  # doubles that no float can hold become infinite
        values = np.asarray(blob.double_data or blob.data, np.float32)
    shape = list(blob.shape.dim)
    if not blob.HasField("shape"):
        shape = [blob.num, blob.channels, blob.height, blob.width]
    if len(shape) > _MAX_AXES:
        raise UserError(f"{path}: a blob has {len(shape)} axes, more than Caffe allows; it is damaged")
    if min(shape, default=1) < 1 or math.prod(shape) != len(values):
        raise UserError(f"{path}: a blob says {_sizes(shape)} but holds {len(values)} values; it is damaged")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: a blob holds values that are no finite numbers; a run that diverged, or damage")
    return values.reshape(shape)


def _sizes(shape: list[int] | tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _fill(message: Any, blob: Blob) -> None:  # noqa: ANN401 -- see message_class
    """Fills a BlobProto; PackedFloats is the same on disk, and takes the values without a Python float for each."""
    values = np.ascontiguousarray(blob, "<f4").tobytes()
    message.MergeFromString(message_class("PackedFloats")(data=values).SerializeToString())
