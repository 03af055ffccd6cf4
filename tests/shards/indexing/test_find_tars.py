import pytest

from shards.errors import ShardsError
from shards.indexing.find_tars import find_tars
from shards.local import fetch
from tests.loopback import Answer
from tests.stores import client


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "my tars"
    (folder / "val").mkdir(parents=True)
    for name in ["a-2.tar", "a-0.tar", "a-1.tar", "b{1}.tar", "notes.txt", "val/c.tar"]:
        (folder / name).write_bytes(name.encode())
    return folder


def names(patterns, root):
    return [path.name for path in find_tars(patterns, root)]


def test_patterns_name_tars_once_and_in_order(tars, tmp_path):
    root = tmp_path / "out"
    assert names([str(tars)], root) == ["a-0.tar", "a-1.tar", "a-2.tar", "b{1}.tar", "c.tar"]
    assert names([f"{tars}/a-*.tar", f"{tars}/a-1.tar"], root) == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert names([f"{tars}/a-{{1..2}}.tar"], root) == ["a-1.tar", "a-2.tar"]
    assert names([f"{tars}/b{{1}}.tar"], root) == ["b{1}.tar"]
    assert names([f"{tars}/**/c.tar"], root) == ["c.tar"]


def test_links_of_an_earlier_command_are_skipped(tars):
    (tars / "out" / "train").mkdir(parents=True)
    (tars / "out" / "train" / "00000.tar").symlink_to(tars / "a-0.tar")
    assert names([str(tars)], tars / "out") == ["a-0.tar", "a-1.tar", "a-2.tar", "b{1}.tar", "c.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("pipe:cat a.tar", "a pipe can't be indexed"),
        ("nosuch-*.tar", "nosuch-*.tar: no such tar"),
        ("nosuch.tar", "no such tar"),
        ("a-{0..1.tar", "write, for example, shard-{000..099}.tar"),
        ("ftp://host/a.tar", "give a path, or an http(s), s3 or gs URL"),
    ],
)
def test_what_cannot_be_indexed_is_refused_in_one_line(pattern, message, tmp_path):
    with pytest.raises(ShardsError) as caught:
        find_tars([pattern], tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tars_on_the_web_are_copied_once(server, tmp_path):
    server.add("/a-0.tar", Answer(b"zero"))
    server.add("/a-1.tar", Answer(status=503), Answer(b"one"))
    pattern = f"{server.url}/a-{{0..1}}.tar"
    for _ in range(2):
        assert [path.read_bytes() for path in find_tars([pattern], tmp_path)] == [b"zero", b"one"]
    assert {path.parent for path in find_tars([pattern], tmp_path)} == {tmp_path / "tars"}
    with pytest.raises(ShardsError, match=r"b.tar: 404 .*run the same command again to continue"):
        find_tars([f"{server.url}/b.tar"], tmp_path)


def test_tars_in_an_object_store_are_copied(bucket, tmp_path):
    name = bucket.removeprefix("s3://")
    for number in range(2):
        client().put_object(Bucket=name, Key=f"x/a-{number}.tar", Body=b"%d" % number)
    for pattern in (f"{bucket}/x/a-*.tar", f"{bucket}/x/a-{{0..1}}.tar"):
        assert [path.read_bytes() for path in find_tars([pattern], tmp_path)] == [b"0", b"1"]
    with pytest.raises(ShardsError, match="no such object"):
        find_tars([f"{bucket}/y/*.tar"], tmp_path)


def test_a_copy_is_complete_or_absent(server, tmp_path, monkeypatch):
    url = server.add("/a.tar", Answer(b"zero"))

    def fail(*_):
        raise ShardsError("stopped")

    monkeypatch.setattr(fetch, "publish_file", fail)
    with pytest.raises(ShardsError):
        find_tars([url], tmp_path)
    monkeypatch.undo()
    assert [path.read_bytes() for path in find_tars([url], tmp_path)] == [b"zero"]
