import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylefinetune.errors import UserError
from stylefinetune.init.list_columns import Columns, find_columns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image_url,label\nhttps://a/1.jpg,cat\n", Columns("image_url", "label", is_local=False, several_labels=False)),
        ("\ufeffURL;Style\nHTTP://a/1.jpg;3\n", Columns("URL", "Style", is_local=False, several_labels=False)),
        (
            "sep=;\r\nurl;a,b,c;label\r\nhttps://a;1;x\r\n",
            Columns("url", "label", is_local=False, several_labels=False),
        ),
        ("id\tpath\tclass\n1\ta b.jpg\tcat\n", Columns("path", "class", is_local=True, several_labels=False)),
        ('{"url": "https://a", "tags": ["x", "y"]}\n{', Columns("url", "tags", is_local=False, several_labels=True)),
        (
            '[\n {"file": "1.png",\n "category": "x"}, {"file',
            Columns("file", "category", is_local=True, several_labels=False),
        ),
    ],
)
def test_columns_are_found_by_their_names(tmp_path, text, expected):
    (tmp_path / "list").write_text(text, encoding="utf-8")
    assert find_columns(tmp_path / "list", None, None) == expected


def test_parquet_and_given_columns(tmp_path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"link": ["https://a/1.jpg"], "x": [3], "y": [[1, 2]]}), path)
    assert find_columns(path, "link", "y") == Columns("link", "y", is_local=False, several_labels=True)
    with pytest.raises(
        UserError, match=r"has no column called image_url or url; name one of link, x, y with --url_col"
    ):
        find_columns(path, None, None)
    with pytest.raises(UserError, match=r"has no column z; name one of link, x, y with --label_col"):
        find_columns(path, "link", "z")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"https://a/1.jpg\nhttps://a/2.jpg\n", "a text of URLs without labels"),
        (b"photos/1.jpg 0\nphotos/2.jpg 1\n", "looks like a Caffe list; assemble it first"),
        (b"\x1f\x8b123", "it is compressed; assemble it first"),
        (b"", "it has no rows"),
        (b"PAR1xxxx", "is no list of pictures"),
        (b"{broken", "is no list of pictures"),
        (b"\xff\xfe\xfd", "is no list of pictures"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path, body, reason):
    (tmp_path / "list").write_bytes(body)
    with pytest.raises(UserError, match=reason) as raised:
        find_columns(tmp_path / "list", None, None)
    assert "\n" not in str(raised.value)
