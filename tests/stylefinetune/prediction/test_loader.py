import itertools
import threading

import cv2
import numpy as np

from stylefinetune.data.augmentation.shorter_side import ShorterSide
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.pictures import FetchLimits, NoPicture, PictureFile, PictureUrl
from tests.loopback import Answer

PRIVATE = FetchLimits(allow_private=True)


def load(pictures, *, size=(40, 30), fit=None, batch_size=2, workers=3):
    with PictureLoader(size, fit, batch_size, workers, PRIVATE) as loader:
        return list(loader.load(pictures))


def test_pictures_are_resized_as_in_caffe_and_keep_their_order(album):
    batches = load(map(PictureFile, album.paths()))
    assert [len(batch.names) for batch in batches] == [2, 2, 1]
    assert [name for batch in batches for name in batch.names] == album.paths()
    for batch in batches:
        for name, pixels in zip(batch.names, batch.pictures.numpy(), strict=True):
            resized = cv2.resize(cv2.imread(name), (30, 40), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_array_equal(pixels, resized[..., ::-1])


def test_a_picture_of_the_wanted_size_and_one_that_keeps_its_shape(album):
    (batch,) = load([PictureFile(album.paths()[1])], size=(60, 90))
    np.testing.assert_array_equal(batch.pictures[0].numpy(), cv2.imread(album.paths()[1])[..., ::-1])
    fit = ShorterSide(50, 32, "bilinear", None)
    (batch,) = load([PictureFile(album.paths()[1])], size=fit.size, fit=fit)
    expected = np.empty((32, 32, 3), np.uint8)
    fit(cv2.imread(album.paths()[1])[..., ::-1], 0, expected)
    np.testing.assert_array_equal(batch.pictures[0].numpy(), expected)


def test_what_cannot_be_read_is_left_out_with_its_reason(album):
    first, second = album.paths()[:2]
    (batch,) = load([PictureFile(first), NoPicture("x", "has no pictures"), PictureFile(second)], batch_size=3)
    assert batch.names == [first, second]
    assert batch.failed == [("x", "has no pictures")]
    (alone,) = load([PictureFile(second)])
    np.testing.assert_array_equal(batch.pictures[1].numpy(), alone.pictures[0].numpy())
    (none,) = load([NoPicture("x", "has no pictures")])
    assert none.pictures.shape == (0, 40, 30, 3)


def test_a_picture_that_memory_does_not_hold_is_reported():
    class Huge:
        name = "huge"

        def read(self):
            raise MemoryError

    (batch,) = load([Huge()])
    assert batch.failed == [("huge", "needs more memory than there is")]


def test_urls_and_files_mix(album, server):
    body = (album.folder / "b.png").read_bytes()
    url = server.add("/b.png", Answer(body))
    file = album.paths()[1]
    (batch,) = load([PictureUrl(url), PictureFile(file), PictureUrl(f"{server.url}/none")], batch_size=5)
    assert batch.names == [url, file]
    np.testing.assert_array_equal(*batch.pictures.numpy())
    assert batch.failed == [(f"{server.url}/none", "can't be fetched: the server answers 404")]


def test_only_a_few_batches_are_in_memory_at_a_time(album):
    taken = itertools.count()
    endless = (PictureFile(album.paths()[1]) for _ in iter(lambda: next(taken), -1))
    with PictureLoader((40, 30), None, 4, 2, PRIVATE) as loader:
        batches = loader.load(endless)
        for number in range(1, 6):
            assert len(next(batches).names) == 4
            assert next(taken) <= 4 * (number + 2) + number  # each call of next counts one more


def test_leaving_early_ends_the_threads(album):
    class Blocked:
        name = "blocked"
        go_on = threading.Event()

        def read(self):
            self.go_on.wait(60)
            raise MemoryError

    before = threading.active_count()
    with PictureLoader((40, 30), None, 1, 1, PRIVATE) as loader:
        batches = loader.load([PictureFile(album.paths()[0]), *[Blocked()] * 10])
        next(batches)
    Blocked.go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("decode"):
            thread.join(60)
    assert threading.active_count() <= before
