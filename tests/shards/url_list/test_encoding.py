import bz2
import codecs
import gzip
import io
import lzma

import pytest

from shards.errors import ShardsError
from shards.url_list import encoding
from shards.url_list.encoding import decompress, to_utf8

TEXT = "image_url,label\nhttp://h/é.jpg,été\n"
COMPRESSED = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_compressed_list_is_decompressed(compress):
    assert decompress(io.BytesIO(compress(TEXT.encode())), "a").read() == TEXT.encode()
    assert decompress(io.BytesIO(TEXT.encode()), "a").read() == TEXT.encode()


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_small_file_with_a_large_content_is_refused_in_one_line(compress, tmp_path):
    body = compress(bytes(2**24))
    assert len(decompress(io.BytesIO(body), "a", tmp_path, limit=2**24).read()) == 2**24
    with pytest.raises(
        ShardsError, match=r"^--list a has more than 16,777,215 bytes .* give --max_list_bytes 33554430$"
    ):
        decompress(io.BytesIO(body), "a", tmp_path, limit=2**24 - 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_a_text_may_be_cut_between_any_bytes(chunk, monkeypatch):
    monkeypatch.setattr(encoding, "_CHUNK", chunk)
    text = "a\né\U0001f600\r\nb\n"
    for name in ("utf-8", "utf-16", "utf-32"):
        assert to_utf8(io.BytesIO(text.encode(name)), "a").read() == text.encode()
    with pytest.raises(ShardsError, match="isn't UTF-8 text at byte 12, in line 4"):
        to_utf8(io.BytesIO(text.encode() + b"\xe2\x82"), "a")
    with pytest.raises(ShardsError, match="line 4: a NUL"):
        to_utf8(io.BytesIO(text.encode() + b"x\0"), "a")


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_damaged_or_truncated_list_is_refused_in_one_line(compress):
    whole = compress(bytes(range(256)) * 50)
    middle = len(whole) // 2
    for body in (whole[:-5], whole[:12], whole[:middle] + b"\xff\x00\xff" + whole[middle + 3 :]):
        with pytest.raises(ShardsError, match=r"^--list a\.gz is a damaged or truncated compressed file .* again$"):
            decompress(io.BytesIO(body), "a.gz")


@pytest.mark.parametrize(
    "body",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    ],
)
def test_the_byte_order_mark_gives_the_encoding(body):
    assert to_utf8(io.BytesIO(body), "a").read() == TEXT.encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"a\nb\xe9\n", "isn't UTF-8 text at byte 3, in line 2; give"),
        (b"\xff\xfea\x00\x00", "isn't UTF-16 text at byte 4, in line 1; give"),
        (b"\xff\xfe\x00\xd8a\x00", "isn't UTF-16 text at byte 2, in line 1; give"),
        (b"a\nb\0c", "line 2: a NUL character; give"),
        (TEXT.encode("utf-16-le"), "NUL|UTF-8"),
    ],
)
def test_other_bytes_are_refused_by_their_line(body, message):
    with pytest.raises(ShardsError, match=message):
        to_utf8(io.BytesIO(body), "a")
