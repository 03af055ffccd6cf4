import pytest

from shards.errors import ShardsError
from shards.format.caffe_list import ListedPicture, parse_caffe_list


def test_the_label_follows_the_last_space_or_tab():
    body = b"a.jpg 1\n\n  my pictures/b.jpg\t2\r\nc d\te.jpg \t 03 \n"
    assert parse_caffe_list(body, "train.txt", 20) == [
        ListedPicture(1, "a.jpg", 1),
        ListedPicture(3, "my pictures/b.jpg", 2),
        ListedPicture(4, "c d\te.jpg", 3),
    ]


def test_a_byte_order_mark_and_other_encodings_are_read():
    assert parse_caffe_list(b"\xef\xbb\xbfa.jpg 1", "x", 2) == [ListedPicture(1, "a.jpg", 1)]
    assert parse_caffe_list("训练.jpg 1".encode("gbk"), "x", 2) == [ListedPicture(1, "训练.jpg", 1)]


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg -1", "a.jpg 1.0", "a.jpg 20", "3", "a.jpg x", "a.jpg ٣"])
def test_another_line_is_an_error_that_names_the_file_and_the_line(line):
    with pytest.raises(ShardsError, match=r"^my/train\.txt, line 3: '.*' isn't a path.* label from 0 to 19$"):
        parse_caffe_list(f"ok.jpg 0\n\n{line}\n".encode(), "my/train.txt", 20)
