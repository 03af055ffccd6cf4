"""Reads small Caffe files after random damage, random protobuf messages and random bytes."""

import contextlib
import resource
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylefinetune.caffe.files import read_caffemodel, read_mean, read_solverstate
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError

MEMORY = 256  # MB that the reads of a test may add to the process
BOUNDED = settings(
    max_examples=150, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def new_format():
    net = message_class("NetParameter")(name="Small")
    layer = net.layer.add(name="conv1", type="Convolution", bottom=["data"], top=["conv1"])
    layer.convolution_param.num_output = 2
    layer.blobs.add(data=range(18), shape={"dim": [2, 1, 3, 3]})
    layer.blobs.add(double_data=[0.5, 2], shape={"dim": [2]})
    net.layer.add(name="fc8", type="InnerProduct").blobs.add(data=range(6), shape={"dim": [2, 3]})
    return net.SerializeToString()


def old_format():
    net = message_class("NetParameter")(name="Small")
    layer = net.layers.add(name="fc8", type=14)
    layer.blobs.add(data=range(6), num=1, channels=1, height=2, width=3)
    return net.SerializeToString()


def solver_state():
    state = message_class("SolverState")(iter=20, learned_net="a/b_iter_20.caffemodel", current_step=1)
    state.history.add(data=range(6), shape={"dim": [2, 3]})
    state.history.add(data=range(2), shape={"dim": [2]})
    return state.SerializeToString()


def mean():
    data = struct.pack("<12f", *range(12))
    return message_class("BlobProto")(num=1, channels=3, height=2, width=2).SerializeToString() + b"*0" + data


FILES = [
    pytest.param(read_caffemodel, new_format(), id="new format"),
    pytest.param(read_caffemodel, old_format(), id="old format"),
    pytest.param(read_solverstate, solver_state(), id="solver state"),
    pytest.param(read_mean, mean(), id="mean"),
]


@contextlib.contextmanager
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY * 1024


def check_read(read, folder, content):
    path = folder / "file"
    path.write_bytes(content)
    line = ""
    try:
        read(path)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))


@pytest.mark.parametrize(("read", "content"), FILES)
def test_an_undamaged_file_is_read(read, content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    found = read(path)
    if read is read_mean:
        assert np.array_equal(found, np.arange(12, dtype=np.float32).reshape(3, 2, 2))


@pytest.mark.parametrize(("read", "content"), FILES)
def test_truncated_anywhere(read, content, tmp_path):
    for length in range(len(content)):
        check_read(read, tmp_path, content[:length])


@pytest.mark.parametrize(("read", "content"), FILES)
def test_bytes_replaced_deleted_and_inserted(read, content, tmp_path):
    position = st.integers(0, len(content))
    edit = st.tuples(position, st.integers(0, 3), st.binary(max_size=12))

    @BOUNDED
    @given(st.lists(edit, min_size=1, max_size=4))
    def damage(edits):
        damaged = bytearray(content)
        for start, deleted, inserted in edits:
            damaged[start : start + deleted] = inserted
        check_read(read, tmp_path, bytes(damaged))

    with bounded_memory():
        damage()


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# Random protobuf: fields of any number and wire type, nested and repeated, some with wrong lengths.
NUMBERS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 1001, 2**29 - 1])
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([2**31 - 1, 2**32, 2**63, 2**64 - 1]))
SCALARS = st.one_of(
    st.builds(lambda n, v: varint(n << 3) + varint(v), NUMBERS, SIZES),
    st.builds(lambda n, v: varint(n << 3 | 5) + v, NUMBERS, st.binary(min_size=4, max_size=4)),
    st.builds(lambda n, v: varint(n << 3 | 1) + v, NUMBERS, st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, kind: varint(n << 3 | kind), NUMBERS, st.sampled_from([3, 4, 6, 7])),
    st.builds(lambda n, v: varint(n << 3 | 2) + varint(len(v)) + v, NUMBERS, st.binary(max_size=24)),
    st.builds(lambda n, size: varint(n << 3 | 2) + varint(size), NUMBERS, SIZES),
)
MESSAGES = st.recursive(
    SCALARS,
    lambda inner: st.builds(
        lambda n, parts, times: (varint(n << 3 | 2) + varint(len(b"".join(parts))) + b"".join(parts)) * times,
        NUMBERS,
        st.lists(inner, max_size=4),
        st.sampled_from([1, 2, 5]),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("read", [read_caffemodel, read_solverstate, read_mean])
def test_random_protobuf_messages(read, tmp_path):
    @BOUNDED
    @given(st.lists(MESSAGES, max_size=6))
    def read_message(parts):
        check_read(read, tmp_path, b"".join(parts))

    with bounded_memory():
        read_message()


@pytest.mark.parametrize("read", [read_caffemodel, read_solverstate, read_mean])
def test_random_bytes(read, tmp_path):
    @BOUNDED
    @given(st.binary(max_size=400))
    def read_bytes(content):
        check_read(read, tmp_path, content)

    with bounded_memory():
        read_bytes()


@pytest.mark.parametrize("depth", [50, 99, 101, 10_000])
def test_deeply_nested_messages(depth, tmp_path):
    """Nested messages are refused or read, at any depth."""
    inner = b""
    for _ in range(depth):
        inner = varint(100 << 3 | 2) + varint(len(inner)) + inner
    with bounded_memory():
        for read in (read_caffemodel, read_solverstate, read_mean):
            check_read(read, tmp_path, inner)
