"""Damages small files of Caffe's in every way that a disk, a network or an enemy can, and reads them."""

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

MEMORY = 256  # MB that all the readings of a test may add to the process
BOUNDED = settings(
    max_examples=150, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def new_form():
    net = message_class("NetParameter")(name="Small")
    layer = net.layer.add(name="conv1", type="Convolution", bottom=["data"], top=["conv1"])
    layer.convolution_param.num_output = 2
    layer.blobs.add(data=range(18), shape={"dim": [2, 1, 3, 3]})
    layer.blobs.add(double_data=[0.5, 2], shape={"dim": [2]})
    net.layer.add(name="fc8", type="InnerProduct").blobs.add(data=range(6), shape={"dim": [2, 3]})
    return net.SerializeToString()


def old_form():
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
    pytest.param(read_caffemodel, new_form(), id="new form"),
    pytest.param(read_caffemodel, old_form(), id="old form"),
    pytest.param(read_solverstate, solver_state(), id="solver state"),
    pytest.param(read_mean, mean(), id="mean"),
]


@contextlib.contextmanager
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY * 1024


def read_or_refuse(read, folder, body):
    path = folder / "file"
    path.write_bytes(body)
    line = ""
    try:
        read(path)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 500 + len(str(path))


@pytest.mark.parametrize(("read", "body"), FILES)
def test_whole_it_is_read(read, body, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(body)
    found = read(path)
    if read is read_mean:
        assert np.array_equal(found, np.arange(12, dtype=np.float32).reshape(3, 2, 2))


@pytest.mark.parametrize(("read", "body"), FILES)
def test_cut_anywhere(read, body, tmp_path):
    for length in range(len(body)):
        read_or_refuse(read, tmp_path, body[:length])


@pytest.mark.parametrize(("read", "body"), FILES)
def test_bytes_changed_dropped_and_put_in(read, body, tmp_path):
    place = st.integers(0, len(body))
    edit = st.tuples(place, st.integers(0, 3), st.binary(max_size=12))

    @BOUNDED
    @given(st.lists(edit, min_size=1, max_size=4))
    def damage(edits):
        damaged = bytearray(body)
        for start, dropped, put_in in edits:
            damaged[start : start + dropped] = put_in
        read_or_refuse(read, tmp_path, bytes(damaged))

    with bounded_memory():
        damage()


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# What looks like protobuf: fields of any number and wire type, nested and repeated, with lengths that may be lies.
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
def test_whatever_looks_like_protobuf(read, tmp_path):
    @BOUNDED
    @given(st.lists(MESSAGES, max_size=6))
    def invent(parts):
        read_or_refuse(read, tmp_path, b"".join(parts))

    with bounded_memory():
        invent()


@pytest.mark.parametrize("read", [read_caffemodel, read_solverstate, read_mean])
def test_noise(read, tmp_path):
    @BOUNDED
    @given(st.binary(max_size=400))
    def noise(body):
        read_or_refuse(read, tmp_path, body)

    with bounded_memory():
        noise()


@pytest.mark.parametrize("depth", [50, 99, 101, 10_000])
def test_nested_deep(depth, tmp_path):
    """A solver's net within a net is the one place where messages could nest without end."""
    inner = b""
    for _ in range(depth):
        inner = varint(100 << 3 | 2) + varint(len(inner)) + inner
    with bounded_memory():
        for read in (read_caffemodel, read_solverstate, read_mean):
            read_or_refuse(read, tmp_path, inner)
