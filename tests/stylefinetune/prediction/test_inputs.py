import os

import pytest

from shards.format.index import ShardIndex
from stylefinetune.errors import UserError
from stylefinetune.prediction.inputs import open_inputs
from stylefinetune.prediction.pictures import PictureFile, PictureUrl
from tests.stylefinetune.data.staging.stores import upload

pytestmark = pytest.mark.xdist_group("prediction")  # with the other tests that read shards


@pytest.fixture
def names_of(world):
    def names(*arguments, split=None, column=None):
        inputs = open_inputs(map(str, arguments), world, split=split, column=column)
        return [picture.name for each in inputs for picture in each.find()]

    return names


def test_a_folder_is_walked_in_sorted_order_without_other_and_hidden_files(names_of, album):
    assert names_of(album.folder) == album.paths()


def test_a_folder_without_pictures_and_one_that_cannot_be_read_are_reported(world, tmp_path):
    (empty := tmp_path / "empty").mkdir()
    (input_,) = open_inputs([str(empty)], world, split=None, column=None)
    ((name, reason),) = input_.find()
    assert (name, reason) == (str(empty), "has no pictures")


def test_patterns_match_at_any_depth_and_a_name_with_brackets_is_a_file(names_of, album, tmp_path):
    assert names_of(album.folder / "*.jpg", album.folder / "**" / "*.webp") == [album.paths()[0], album.paths()[4]]
    assert names_of(album.folder / "x*") == [str(album.folder / "x*")]
    (odd := tmp_path / "a[1].jpg").touch()
    assert names_of(odd) == [str(odd)]


def test_arguments_keep_their_order(names_of, album):
    url = "https://host/x*.jpg?a=[1]"
    assert names_of(album.paths()[3], url, album.folder / "inner") == [
        album.paths()[3],
        url,
        *album.paths()[3:],
    ]


def test_lists_name_pictures(names_of, album):
    path = album.folder.parent / "list.csv"
    path.write_text(f"path,label\n{album.paths()[0]},1\n{album.folder.name}/b.png,2\n")
    assert names_of(path) == album.paths()[:2]


def test_shards_are_read_whole_or_by_split(names_of, pixel_shards):
    assert len(names_of(pixel_shards)) == 52
    keys = list(ShardIndex.load(pixel_shards).entries("test").key)
    assert [name.rpartition(" ")[2] for name in names_of(pixel_shards, split="test")] == keys
    with pytest.raises(UserError, match="has no pictures of split 'val'; it has test, train"):
        names_of(pixel_shards, split="val")


def test_shards_of_an_object_store_are_copied(world, memory, pixel_shards):
    url = upload(pixel_shards, f"{memory}/DIR")
    (input_,) = open_inputs([url], world, split="test", column=None)
    assert [picture.read().shape for picture in input_.find()] == [(48, 48, 3)] * 11


def test_stdin_has_a_picture_on_each_line(world, tmp_path):
    (tmp_path / "lines").write_bytes(b"a b.jpg\r\n\nhttp://host/c\n\xff.jpg")
    (stdin,) = open_inputs(["-"], world, split=None, column=None)
    assert not stdin.is_repeatable
    former = os.dup(0)
    try:
        with (tmp_path / "lines").open("rb") as lines:
            os.dup2(lines.fileno(), 0)
            assert list(stdin.find()) == [
                PictureFile("a b.jpg"),
                PictureUrl("http://host/c"),
                PictureFile("\udcff.jpg"),
            ]
    finally:
        os.dup2(former, 0)
        os.close(former)
