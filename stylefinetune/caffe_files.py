"""Caffe's binary files: .caffemodel weights in the new and the old V1 form, .binaryproto mean pictures.

Only the fields that are read are declared; protobuf skips the others. Field numbers are those of Caffe's caffe.proto.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from stylefinetune.errors import UserError

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING,
}
# Message -> field -> (number, type); a "*" marks a repeated field, a capital another message of this table.
_SCHEMA = {
    "BlobShape": {"dim": (1, "*int64")},
    "BlobProto": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "*float"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "*double"),
    },
    "V1LayerParameter": {"name": (4, "string"), "blobs": (6, "*BlobProto")},
    "LayerParameter": {"name": (1, "string"), "blobs": (7, "*BlobProto")},
    "NetParameter": {
        "name": (1, "string"),
        "layers": (2, "*V1LayerParameter"),
        "layer": (100, "*LayerParameter"),
    },
}


@functools.cache
def _message(name: str) -> Any:  # noqa: ANN401 -- the classes are made at run time
    file = descriptor_pb2.FileDescriptorProto(name="caffe_subset.proto", package="caffe_subset", syntax="proto2")
    for message_name, fields in _SCHEMA.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            repeated, base = kind.startswith("*"), kind.removeprefix("*")
            field = message.field.add(
                name=field_name, number=number, label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            )
            if base in _TYPES:
                field.type = _TYPES[base]
                field.options.packed = repeated and base != "string"
            else:
                field.type = _FIELD.TYPE_MESSAGE
                field.type_name = f".caffe_subset.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_subset.{name}"))


def read_caffemodel(path: Path) -> dict[str, list[npt.NDArray[np.float32]]]:
    """Returns the blobs of each layer that has any: its weights, then its biases, in Caffe's shapes.

    Raises:
        UserError: the file is missing or no .caffemodel.
    """
    net = _parse(path, "NetParameter", "a .caffemodel")
    layers = {layer.name: [_array(blob, path) for blob in layer.blobs] for layer in (*net.layer, *net.layers)}
    layers = {name: blobs for name, blobs in layers.items() if blobs}
    if not layers:
        raise UserError(f"{path} holds no weights; is it a .caffemodel?")
    return layers


def read_mean(path: Path) -> npt.NDArray[np.float32]:
    """Returns a .binaryproto's picture: float32 [3, H, W], BGR.

    Raises:
        UserError: the file is missing or holds no picture of three channels.
    """
    mean = _array(_parse(path, "BlobProto", "a .binaryproto"), path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise UserError(f"{path} holds a blob of {'x'.join(map(str, mean.shape))}, not a mean picture of 3 channels")
    return mean


def _parse(path: Path, message: str, kind: str) -> Any:  # noqa: ANN401 -- see _message
    try:
        body = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    try:
        return _message(message).FromString(body)
    except DecodeError as error:
        raise UserError(f"{path} is not {kind}, or is damaged") from error


def _array(blob: Any, path: Path) -> npt.NDArray[np.float32]:  # noqa: ANN401 -- see _message
    values = np.asarray(blob.double_data or blob.data, np.float32)
    old_shape = [blob.num, blob.channels, blob.height, blob.width]
    shape = list(blob.shape.dim) if blob.HasField("shape") else old_shape
    if min(shape, default=1) < 0 or int(np.prod(shape, dtype=object)) != len(values):
        raise UserError(
            f"{path}: a blob says {'x'.join(map(str, shape))} but holds {len(values)} values; it is damaged"
        )
    return values.reshape(shape)
