import cv2
import numpy as np
import pytest

from shards.assembly.mean import write_mean
from shards.errors import ShardsError
from shards.format.images import decode_picture, resize_picture
from tests.loopback import Answer


@pytest.fixture
def assembled(server, draw_jpg, write_list, run_assemble, tmp_path):
    """Assemble 10 pictures, every fifth in the test split, and return DIR and the bytes of the train pictures."""

    def run(**settings):
        bodies = [draw_jpg(number, 40 + number, 50) for number in range(10)]
        rows = [
            {"image_url": server.add(f"/{number}.jpg", Answer(body)), "label": 0}
            | {"split": "train" if number % 5 else "test"}
            for number, body in enumerate(bodies)
        ]
        run_assemble(list=write_list(rows), rows_per_shard=3, **settings)
        return tmp_path / "out", [body for number, body in enumerate(bodies) if number % 5]

    return run


@pytest.mark.parametrize(
    ("settings", "image_size", "expected_size"),
    [
        ({}, None, 256),
        ({}, 20, 20),
        ({"encode_format": "pixels", "image_size": 24}, None, 24),
    ],
)
def test_the_mean_is_that_of_the_resized_train_pictures(assembled, settings, image_size, expected_size):
    root, bodies = assembled(**settings)
    path, count = write_mean(root, image_size)
    mean = np.load(path)
    assert path == root / "mean.npy"
    assert count == 8
    assert mean.dtype == np.float32
    expected = np.mean(
        [resize_picture(decode_picture(body), expected_size) for body in bodies], axis=0, dtype=np.float64
    )
    np.testing.assert_array_equal(mean, expected.astype(np.float32))
    assert [path.name for path in root.glob("*mean*")] == ["mean.npy"]


def test_the_mean_is_rgb(server, write_list, run_assemble, tmp_path):
    red = np.zeros((20, 20, 3), np.uint8)
    red[:, :, 2] = 250  # BGR, as OpenCV writes
    url = server.add("/red.png", Answer(cv2.imencode(".png", red)[1].tobytes()))
    run_assemble(list=write_list([{"image_url": url, "label": 0, "split": "train"}]))
    assert np.load(write_mean(tmp_path / "out", None)[0])[0, 0].tolist() == [250, 0, 0]


def test_a_dir_without_train_pictures_is_an_error(server, draw_jpg, write_list, run_assemble, tmp_path):
    url = server.add("/a.jpg", Answer(draw_jpg(0)))
    run_assemble(list=write_list([{"image_url": url, "label": 0, "split": "test"}]))
    with pytest.raises(ShardsError, match="no pictures in the split train; it has test: choose one with --split"):
        write_mean(tmp_path / "out", None)
    assert write_mean(tmp_path / "out", None, "test")[1] == 1


def test_an_invalid_size_is_an_error(assembled):
    root, _ = assembled()
    for image_size in (0, 4097):
        with pytest.raises(ShardsError, match=f"image_size is {image_size}"):
            write_mean(root, image_size)


def test_a_missing_shard_is_an_error(assembled):
    root, _ = assembled()
    (root / "train" / "00001.tar").unlink()
    with pytest.raises(ShardsError, match=r"00001\.tar"):
        write_mean(root, 16)
