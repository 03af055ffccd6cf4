import codecs
import itertools
import os

import pytest

from shards.format.text import decode_lines, find_file

CHINESE, FRENCH = "训练/图片一.jpg 3", "été/café au lait.jpg 3"


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"a 1\nb 2\n", ["a 1", "b 2", ""]),
        (b"a 1\r\nb 2", ["a 1", "b 2"]),
        (codecs.BOM_UTF8 + b"a 1", ["a 1"]),
        ("a é 1\nb".encode("utf-16"), ["a é 1", "b"]),
        (CHINESE.encode(), [CHINESE]),
        (CHINESE.encode("gbk"), [CHINESE]),
        (FRENCH.encode("latin-1"), [FRENCH]),
        (CHINESE.encode("gbk") + b"\n" + FRENCH.encode("latin-1"), [CHINESE, FRENCH]),
        ("a\u2028b\x0cc 1".encode(), ["a\u2028b\x0cc 1"]),  # Caffe ends lines at line feeds only
        (b"", [""]),
        (bytes(range(128, 256)), [bytes(range(128, 256)).decode("latin-1")]),
        (codecs.BOM_UTF16_LE + b"a\0b", ["a\ufffd"]),
    ],
)
def test_lines_of_any_encoding_are_decoded(body, lines):
    assert decode_lines(body) == lines


@pytest.mark.parametrize(
    ("name", "on_disk", "in_list"),
    [
        *(("plain.jpg", "utf-8", encoding) for encoding in ("utf-8", "gb2312", "latin-1")),
        *(("训练图.jpg", *pair) for pair in itertools.product(("utf-8", "gb2312"), repeat=2)),
        *(("café.jpg", *pair) for pair in itertools.product(("utf-8", "latin-1"), repeat=2)),
    ],
)
def test_a_file_is_found_by_the_bytes_of_its_name_or_by_its_text(tmp_path, name, on_disk, in_list):
    stored, listed = name.encode(on_disk), name.encode(in_list)
    (tmp_path / os.fsdecode(stored)).write_bytes(b"content")
    (line,) = decode_lines(os.fsencode(tmp_path) + b"/" + listed)
    assert find_file(line).read_bytes() == b"content"


def test_bytes_that_are_utf_8_and_gbk_find_their_file(tmp_path):
    name = "图片一.jpg".encode("gbk")
    assert name.decode() != "图片一.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"content")
    (line,) = decode_lines(os.fsencode(tmp_path) + b"/" + name)
    assert find_file(line).read_bytes() == b"content"
    assert decode_lines("图.jpg\n训练.jpg".encode("gbk")) == ["图.jpg", "训练.jpg"]


def test_a_file_that_does_not_exist_has_its_own_name(tmp_path):
    assert find_file(f"{tmp_path}/图.jpg") == tmp_path / "图.jpg"
    assert find_file("x" * 5000).name == "x" * 5000  # too long for any file
    assert str(find_file("a\0b")) == "a\0b"
