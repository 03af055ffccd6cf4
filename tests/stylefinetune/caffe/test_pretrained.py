import fcntl
import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylefinetune.caffe import pretrained
from stylefinetune.caffe.files import read_mean
from stylefinetune.caffe.pretrained import Published, fetch_published, locate_published
from stylefinetune.caffe.schema import message_class
from stylefinetune.errors import UserError
from tests.loopback import Answer

HALF = 2**17  # bytes received of a truncated response of more than twice that
BODY = np.random.default_rng(0).bytes(2 * HALF + 1000)
NOWHERE = "http://127.0.0.1:9"  # no server listens there


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder, empty; `small` is a published file of 300 KB."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    published = Published("small.caffemodel", sha1=hashlib.sha1(BODY).hexdigest())
    monkeypatch.setitem(pretrained.PUBLISHED, "small", published)
    return tmp_path / "stylefinetune"


def fetch(name, *mirrors):
    return fetch_published(name, mirrors, lambda *_: None)


def rest(start, content=BODY):
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Answer(content[start:], 206, {"Content-Range": span})


def ranges(server):
    return [seen.headers.get("Range") for seen in server.requests]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_once_and_then_found_by_its_name(server, cache):
    server.add("/deep/small.caffemodel", Answer(BODY))
    shown = []
    with pytest.raises(UserError, match=r"small isn't downloaded yet; run: stylefinetune weights small"):
        locate_published("small")
    path = fetch_published("small", [f"{server.url}/deep/"], lambda received, total: shown.append((received, total)))
    assert path == locate_published("small") == cache / "small.caffemodel"
    assert path.read_bytes() == BODY
    assert shown[-1] == (len(BODY), len(BODY))
    assert fetch("small", NOWHERE) == path
    assert len(server.requests) == 1
    assert names(cache) == ["small.caffemodel"]
    assert str(locate_published("some/other.caffemodel")) == "some/other.caffemodel"


def test_a_download_that_breaks_off_is_continued(server, cache):
    server.add("/small.caffemodel", Answer(BODY, transfer="truncated"), rest(HALF))
    assert fetch("small", server.url).read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={HALF}-"]
    assert names(cache) == ["small.caffemodel"]


def test_a_later_run_continues_the_download_of_an_earlier_one(server, cache):
    server.add("/small.caffemodel", Answer(BODY, transfer="truncated"), Answer(status=503), rest(HALF))
    with pytest.raises(UserError, match="answers 503"):
        fetch("small", server.url)
    assert names(cache) == ["small.caffemodel.part"]
    assert fetch("small", server.url).read_bytes() == BODY
    assert ranges(server) == [None, *[f"bytes={HALF}-"] * 2]


def test_another_mirror_continues_the_download_of_the_first(server):
    server.add("/one/small.caffemodel", Answer(BODY, transfer="truncated"), Answer(status=404))
    server.add("/two/small.caffemodel", rest(HALF))
    assert fetch("small", f"{server.url}/one", f"{server.url}/two").read_bytes() == BODY


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([Answer(BODY)], id="it ignores ranges"),
        pytest.param([rest(100_000), Answer(BODY)], id="it sends another range"),
        pytest.param([Answer(status=416, headers={"Content-Range": "bytes */7"}), Answer(BODY)], id="too long"),
        pytest.param([rest(150_000), Answer(BODY)], id="damaged"),
    ],
)
def test_a_partial_download_that_does_not_match_is_dropped(server, cache, answers):
    cache.mkdir()
    (cache / "small.caffemodel.part").write_bytes(b"\0" * 150_000)
    server.add("/small.caffemodel", *answers)
    assert fetch("small", server.url).read_bytes() == BODY
    assert ranges(server) == ["bytes=150000-", None][: len(answers)]


def test_a_complete_part_is_used(server, cache):
    cache.mkdir()
    (cache / "small.caffemodel.part").write_bytes(BODY)
    server.add("/small.caffemodel", Answer(status=416, headers={"Content-Range": f"bytes */{len(BODY)}"}))
    assert fetch("small", server.url).read_bytes() == BODY


def test_a_file_with_another_hash_is_refused_and_the_next_mirror_tried(server, cache):
    server.add("/bad/small.caffemodel", Answer(BODY[:-1] + b"!"))
    with pytest.raises(UserError, match=r"/bad has another file: its sha1 is [0-9a-f]{40}, not [0-9a-f]{40}"):
        fetch("small", f"{server.url}/bad")
    assert names(cache) == []
    server.add("/good/small.caffemodel", Answer(BODY))
    assert fetch("small", f"{server.url}/bad", f"{server.url}/good").read_bytes() == BODY


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, cache):
    cache.mkdir()
    (cache / "small.caffemodel").write_bytes(b"damaged")
    server.add("/small.caffemodel", Answer(BODY))
    assert fetch("small", server.url).read_bytes() == BODY


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        (NOWHERE, "can't be reached"),
        ("http://no-such-host.invalid", "can't be reached"),
        ("ftp://127.0.0.1", "is neither http nor https"),
        ("nonsense", "is not a URL"),
        ("http://", "is not a URL"),
    ],
)
def test_an_unreachable_mirror_is_an_error_that_suggests_a_local_file(mirror, reason, cache):
    with pytest.raises(UserError) as error:
        fetch("small", mirror)
    assert str(error.value) == (
        f"small can't be fetched: {mirror} {reason}. Name another mirror with --mirror URL, "
        "or get small.caffemodel elsewhere and pass its path: --weights FILE"
    )
    assert names(cache) == []


def test_a_mirror_that_stops_sending_is_abandoned(server, monkeypatch):
    monkeypatch.setattr(pretrained, "_TIMEOUT", (5.0, 0.3))
    server.add("/small.caffemodel", Answer(BODY, transfer="stall"), Answer(BODY, delay=5))
    with pytest.raises(UserError, match="doesn't answer"):
        fetch("small", server.url)


def test_a_mirror_that_sends_too_much_is_abandoned(server, monkeypatch):
    monkeypatch.setattr(pretrained, "_LARGEST_DOWNLOAD", 100_000)
    server.add("/small.caffemodel", Answer(BODY, transfer="no_length"))
    with pytest.raises(UserError, match="sends more than 1 GB"):
        fetch("small", server.url)


def test_two_processes_do_not_write_the_same_file(server, cache):
    cache.mkdir()
    with (cache / "small.caffemodel.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is being fetched by another process"):
            fetch("small", server.url)
    assert server.requests == []


def test_an_unwritable_cache_is_an_error(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/stylefinetune.*: Not a directory"):
        fetch("small", server.url)


MEAN = np.linspace(0, 255, 3 * 256 * 256, dtype=np.float32)


def binaryproto(values=MEAN, side=256):
    blob = message_class("BlobProto")(num=1, channels=3, height=side, width=side, data=values[: 3 * side * side])
    return blob.SerializeToString()


def member(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def archive(*members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def bomb():
    """An archive of 300 KB that unpacks to 300 MB."""
    info, _ = member("zeros")
    info.size = 2**40
    return gzip.compress(info.tobuf() + b"\0" * 300_000_000, compresslevel=1)


MEMBER = "imagenet_mean.binaryproto"


def test_only_the_mean_is_extracted_from_its_archive(server, cache):
    others = [member("train.txt", b"n01440764/a.JPEG 0\n" * 1000), member("imagenet.bet.pickle", b"\x80\x02.")]
    packed = archive(*others, member(f"./{MEMBER}", binaryproto()), member("val.txt", b"x"))
    server.add("/caffe_ilsvrc12.tar.gz", Answer(packed, transfer="truncated"), Answer(packed))
    path = fetch("imagenet_mean", server.url)
    assert np.array_equal(read_mean(path).ravel(), MEAN)
    assert path == locate_published("imagenet_mean")
    assert fetch("imagenet_mean", NOWHERE) == path
    assert names(cache) == [MEMBER]


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (archive(member(f"/{MEMBER}", binaryproto())), f"there is no {MEMBER} in it"),
        (archive(member(f"../{MEMBER}", binaryproto())), f"there is no {MEMBER} in it"),
        (archive(member(f"deep/{MEMBER}", binaryproto())), f"there is no {MEMBER} in it"),
        (archive(member(MEMBER, type=tarfile.SYMTYPE, linkname="/etc/passwd")), "is not a file of a few hundred KB"),
        (archive(member(MEMBER, type=tarfile.LNKTYPE, linkname="/etc/passwd")), "is not a file of a few hundred KB"),
        (archive(member(MEMBER, type=tarfile.CHRTYPE, devmajor=1, devminor=5)), "is not a file of a few hundred KB"),
        (archive(member(MEMBER, type=tarfile.DIRTYPE)), "is not a file of a few hundred KB"),
        (archive(member(MEMBER, b"\0" * (2**24 + 1))), "is not a file of a few hundred KB"),
        (archive(*[member(f"{n}") for n in range(1500)], member(MEMBER, binaryproto())), f"there is no {MEMBER} in it"),
        (bomb(), "it can't be unpacked (more than 256 MB)"),
        (archive(member(MEMBER, binaryproto()))[:5000], "it can't be unpacked"),
        (b"<html>not found</html>", "it can't be unpacked"),
        (b"", "it can't be unpacked"),
        (gzip.compress(b"x" * 5000, mtime=0), "it can't be unpacked"),
        (archive(member(MEMBER, b"nothing")), "is not a .binaryproto, or is damaged"),
        (archive(member(MEMBER, binaryproto(side=227))), "is not a mean of 256x256 pictures"),
        (archive(member(MEMBER, binaryproto(MEAN * 2))), "is not a mean of 256x256 pictures"),
    ],
    ids=range(17),
)
def test_a_hostile_archive_is_a_one_line_error_and_leaves_no_file(server, tmp_path, packed, reason):
    server.add("/caffe_ilsvrc12.tar.gz", Answer(packed))
    with pytest.raises(UserError) as error:
        fetch("imagenet_mean", server.url)
    assert reason in str(error.value)
    assert "--data.mean_file FILE" in str(error.value)
    assert "\n" not in str(error.value)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["stylefinetune"]


def test_a_damaged_archive_yields_the_mean_or_an_error(tmp_path):
    """The tar is damaged before compression, since gzip's checksum detects later damage."""
    plain = bytearray(gzip.decompress(archive(member("train.txt", b"x" * 600), member(MEMBER, b"y" * 600))))
    file = tmp_path / "archive.tar.gz"
    edits = st.tuples(st.integers(0, 2100), st.integers(0, 3), st.binary(max_size=12))

    @settings(max_examples=300, deadline=2000, derandomize=True)
    @given(st.lists(edits, min_size=1, max_size=4))
    def damage(edits):
        damaged = bytearray(plain)
        for start, deleted, inserted in edits:
            damaged[start : start + deleted] = inserted
        file.write_bytes(gzip.compress(damaged, 1, mtime=0))
        try:
            found = pretrained._unpack(file, MEMBER)
        except pretrained._MirrorError:
            return
        assert len(found) <= 2**24

    damage()
