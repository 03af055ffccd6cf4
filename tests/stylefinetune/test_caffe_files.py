import struct

import numpy as np
import pytest

from stylefinetune.caffe_files import read_caffemodel, read_mean
from stylefinetune.errors import UserError


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def block(field, body):
    return varint(field << 3 | 2) + varint(len(body)) + body


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def v1_blob(num, channels, height, width, data):
    return number(1, num) + number(2, channels) + number(3, height) + number(4, width) + block(5, data)


def test_the_new_form_is_read_as_caffe_wrote_it(golden):
    layers = read_caffemodel(golden / "micro" / "finetune" / "micro_ft_iter_20.caffemodel")
    truth = np.load(golden / "micro" / "finetune" / "golden_finetune.npz")
    assert list(layers) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8_flickr"]
    for name, blobs in layers.items():
        assert len(blobs) == 2
        for place, blob in enumerate(blobs):
            assert blob.dtype == np.float32
            assert np.array_equal(blob, truth[f"w20/{name}.{place}"])


def test_the_old_v1_form_is_read_with_its_four_dimensional_blobs(tmp_path):
    weights = v1_blob(1, 1, 2, 3, floats(1, 2, 3, 4, 5, 6))
    bias = v1_blob(1, 1, 1, 2, floats(7, 8))
    layer = block(4, b"fc8") + number(5, 14) + block(6, weights) + block(6, bias)
    without_blobs = block(4, b"relu1") + number(5, 18)
    file = tmp_path / "old.caffemodel"
    file.write_bytes(block(1, b"CaffeNet") + block(2, without_blobs) + block(2, layer))
    layers = read_caffemodel(file)
    assert list(layers) == ["fc8"]
    assert layers["fc8"][0].tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    assert layers["fc8"][1].shape == (1, 1, 1, 2)


def test_double_data_and_unpacked_floats_are_read(tmp_path):
    unpacked = b"".join(varint(5 << 3 | 5) + floats(value) for value in (1.5, 2.5))
    as_double = block(8, struct.pack("<2d", 0.25, 0.5))
    shape = block(7, block(1, varint(2)))
    layer = block(1, b"ip") + block(7, unpacked + shape) + block(7, as_double + shape)
    file = tmp_path / "new.caffemodel"
    file.write_bytes(block(100, layer))
    first, second = read_caffemodel(file)["ip"]
    assert first.tolist() == [1.5, 2.5]
    assert second.tolist() == [0.25, 0.5]


def test_a_mean_picture_is_read_as_channels_first_bgr(golden):
    mean = read_mean(golden / "micro" / "mean.binaryproto")
    assert mean.shape == (3, 80, 80)
    assert 0 < mean.min() < mean.max() < 255


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"this is no model at all", "is not a .caffemodel, or is damaged"),
        (b"", "holds no weights"),
        (
            block(100, block(1, b"ip") + block(7, block(5, floats(1)) + block(7, block(1, varint(3))))),
            "says 3 but holds 1",
        ),
        (block(100, block(1, b"ip") + block(7, block(7, block(1, varint(2**62))))), "it is damaged"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, body, line):
    file = tmp_path / "bad.caffemodel"
    file.write_bytes(body)
    with pytest.raises(UserError, match=r"bad\.caffemodel") as error:
        read_caffemodel(file)
    assert line in str(error.value)


def test_a_missing_file_and_a_blob_that_is_no_picture_are_one_line(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_mean(tmp_path / "mean.binaryproto")
    file = tmp_path / "flat.binaryproto"
    file.write_bytes(v1_blob(1, 1, 1, 3, floats(104, 117, 123)))
    with pytest.raises(UserError, match="not a mean picture of 3 channels"):
        read_mean(file)
