import os
import struct
from pathlib import Path

import numpy as np
import pytest

from stylefinetune.caffe.files import read_caffemodel, read_mean, read_solverstate, write_caffemodel, write_mean
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def block(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def v1_blob(num, channels, height, width, data):
    return number(1, num) + number(2, channels) + number(3, height) + number(4, width) + block(5, data)


def test_the_format_v0_of_2013_is_read(tmp_path):
    blobs = block(50, v1_blob(1, 1, 2, 2, floats(1, 2, 3, 4))) + block(50, v1_blob(1, 1, 1, 2, floats(5, 6)))
    layer = block(1, b"fc8") + block(2, b"innerproduct") + number(3, 2) + blobs
    file = tmp_path / "old.caffemodel"
    file.write_bytes(block(1, b"CaffeNet") + block(2, block(1, layer) + block(2, b"fc7") + block(3, b"fc8")))
    layers = read_caffemodel(file)
    assert {name: [blob.tolist() for blob in blobs] for name, blobs in layers.items()} == {
        "fc8": [[[[[1, 2], [3, 4]]]], [[[[5, 6]]]]]
    }


def test_the_new_format_is_read_as_caffe_wrote_it(golden):
    layers = read_caffemodel(golden / "micro" / "scratch" / "micro_iter_20.caffemodel")
    truth = np.load(golden / "micro" / "scratch" / "golden_scratch.npz")
    assert list(layers) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8_flickr"]
    for name, blobs in layers.items():
        assert len(blobs) == 2
        for index, blob in enumerate(blobs):
            assert blob.dtype == np.float32
            assert np.array_equal(blob, truth[f"w20/{name}.{index}"])


def test_the_old_v1_format_is_read_with_four_dimensional_blobs(tmp_path):
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


def test_a_solver_state_is_read_as_caffe_wrote_it(golden):
    folder = golden / "micro" / "scratch"
    state = read_solverstate(folder / "micro_iter_20.solverstate")
    truth = np.load(folder / "golden_scratch.npz")
    assert state.iteration == 20
    assert state.learned_net == "scratch/micro_iter_20.caffemodel"
    names = [f"{layer}.{index}" for layer in read_caffemodel(folder / "micro_iter_20.caffemodel") for index in (0, 1)]
    for name, momentum in zip(names, state.momenta, strict=True):
        assert np.array_equal(momentum, truth[f"h20/{name}"])


def test_written_weights_are_read_back_bitwise_and_the_net_is_unchanged(tmp_path):
    net = message_class("NetParameter")(name="Small")
    net.layer.add(name="relu1", type="ReLU", bottom=["data"], top=["data"])
    net.layer.add(name="ip", type="InnerProduct", bottom=["data"], top=["ip"]).inner_product_param.num_output = 4
    rng = np.random.default_rng(0)
    blobs = [rng.standard_normal((4, 300)).astype(np.float32), rng.standard_normal(4).astype(np.float32)]
    file = tmp_path / "small.caffemodel"
    write_caffemodel(file, net, {"ip": blobs})
    read = read_caffemodel(file)
    assert list(read) == ["ip"]
    for ours, theirs in zip(read["ip"], blobs, strict=True):
        assert np.array_equal(ours, theirs)
    assert len(net.layer[1].blobs) == 0
    written = message_class("NetParameter").FromString(file.read_bytes())
    assert written.layer[1].inner_product_param.num_output == 4
    assert [path.name for path in tmp_path.iterdir()] == ["small.caffemodel"]


def test_a_rewritten_caffemodel_is_byte_identical(golden, tmp_path):
    theirs = golden / "micro" / "scratch" / "micro_iter_20.caffemodel"
    net = message_class("NetParameter").FromString(theirs.read_bytes())
    for layer in net.layer:
        del layer.blobs[:]
    ours = tmp_path / "ours.caffemodel"
    write_caffemodel(ours, net, read_caffemodel(theirs))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_rewritten_mean_is_byte_identical(golden, tmp_path):
    theirs = golden / "micro" / "mean.binaryproto"
    write_mean(tmp_path / "mean.binaryproto", read_mean(theirs))
    assert (tmp_path / "mean.binaryproto").read_bytes() == theirs.read_bytes()


def test_a_failed_write_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"gone/a\.caffemodel can't be written: No such file or directory"):
        write_caffemodel(tmp_path / "gone" / "a.caffemodel", message_class("NetParameter")(), {})


def shape(*sizes):
    return block(7, block(1, b"".join(map(varint, sizes))))


def layer(*blobs, name=b"ip"):
    return block(100, block(1, name) + b"".join(block(7, blob) for blob in blobs))


ONE = block(5, floats(1)) + shape(1)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"this is no model at all", "is not a .caffemodel, or is damaged"),
        (b"", "has no weights"),
        (layer(ONE)[:-1], "is not a .caffemodel, or is damaged"),
        (layer(block(5, floats(1)) + shape(3)), "of shape 3 has 1 values"),
        (layer(shape(2**62)), "of shape 4611686018427387904 has 0 values"),
        (layer(shape(2**62, 2**62, 0)), "has 0 values; it is damaged"),
        (layer(shape(2**64 - 2, 2**64 - 1)), "of shape -2x-1 has 0 values"),
        (layer(block(5, floats(1)) + shape(*[1] * 33)), "has 33 axes"),
        (layer(block(5, floats(1, 2))), "of shape 0x0x0x0 has 2 values"),
        (layer(block(5, floats(float("nan"))) + shape(1)), "values that are not finite"),
        (layer(block(8, struct.pack("<d", 1e300)) + shape(1)), "values that are not finite"),
        (layer(ONE) + layer(ONE), "two layers called ip"),
        (layer(ONE, name=b"\xff\xfe"), "a name in it is not text"),
        (layer(ONE, name=b"two\nlines"), "a name in it is not text"),
        (layer(ONE, name=b"x" * 100_000), "a name in it is not text"),
        (layer(ONE, name=b""), "a name in it is not text"),
        (block(100, b"") * 300_000, "more than 200000 fields"),
        (layer(block(7, block(1, b"\1" * 300_000))), "more than 200000 fields"),
        (layer(varint(5 << 3 | 5) + floats(1)) * 100_000, "more than 200000 fields"),
        (b"\x0b" * 100_000, "is not a .caffemodel, or is damaged"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file; let Caffe write it with snapshot_format: BINARYPROTO"),
    ],
    ids=range(21),
)
def test_a_damaged_or_hostile_file_is_a_one_line_error(tmp_path, content, line):
    file = tmp_path / "bad.caffemodel"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.caffemodel") as error:
        read_caffemodel(file)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(file))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "has no iteration or no momenta"),
        (number(1, 5), "has no iteration or no momenta"),
        (number(1, 2**64 - 5) + block(3, ONE), "has no iteration or no momenta"),
        (block(1, b"five") + block(3, ONE), "has no iteration or no momenta"),
        (number(1, 5) + block(3, block(5, floats(1, 2)) + shape(3)), "of shape 3 has 2 values"),
        (number(1, 5) + block(2, b"\xff") + block(3, ONE), "a name in it is not text"),
        (number(1, 5) + block(3, ONE)[:-1], "is not a .solverstate, or is damaged"),
    ],
    ids=range(7),
)
def test_a_damaged_solver_state_is_an_error(tmp_path, content, line):
    file = tmp_path / "bad.solverstate"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.solverstate") as error:
        read_solverstate(file)
    assert line in str(error.value)


def test_devices_pipes_and_invalid_paths_are_errors(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**31)
    for path, line in [
        (tmp_path, "can't be read: it is not a regular file"),
        (pipe, "can't be read: it is not a regular file"),
        (Path("/dev/zero"), "can't be read: it is not a regular file"),
        (sparse, "is larger than 2 GB"),
        (Path("a\0b"), "can't be a file's name"),
        (Path("a" * 5000), "can't be read: File name too long"),
    ]:
        with pytest.raises(UserError) as error:
            read_caffemodel(path)
        assert line in str(error.value)


def test_a_missing_file_and_a_blob_that_is_no_picture_are_errors(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_mean(tmp_path / "mean.binaryproto")
    file = tmp_path / "flat.binaryproto"
    file.write_bytes(v1_blob(1, 1, 1, 3, floats(104, 117, 123)))
    with pytest.raises(UserError, match="not a mean picture of 3 channels"):
        read_mean(file)
