import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stylefinetune import load, predict
from stylefinetune.errors import UserError
from tests.programs import python


@pytest.fixture
def photo(drawn):
    return drawn.folder / "test_001.jpg"


def test_a_picture_has_the_classes_that_the_command_prints(trained, photo):
    classifier = load(trained)
    found = classifier(photo)
    assert {name for name, _ in found} == set(classifier.classes)
    assert sum(value for _, value in found) == pytest.approx(1)
    printed = python("-m", "stylefinetune.predict", photo, "--checkpoint", trained, "--format=jsonl", "--top=4")
    assert printed.returncode == 0, printed.stderr
    expected = [(one["class"], one["probability"]) for one in json.loads(printed.stdout)["classes"]]
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)
    assert classifier(photo, top=2) == found[:2]


def test_paths_pil_images_and_arrays_are_the_same_picture(trained, photo):
    classifier = load(trained)
    pixels = cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB)
    from_path = classifier.preprocess(photo)
    assert torch.equal(from_path, classifier.preprocess(pixels))
    assert torch.equal(from_path, classifier.preprocess(str(photo)))
    as_png = Image.fromarray(pixels)
    assert torch.equal(from_path, classifier.preprocess(as_png))
    assert from_path.shape == (3, 43, 43)
    with torch.no_grad():
        logits = classifier.network(torch.stack([from_path, from_path]))
    expected = dict(classifier(photo))
    assert logits.softmax(1)[1].tolist() == pytest.approx([expected[name] for name in classifier.classes], rel=1e-5)
    for wrong in (pixels[:, :, 0], pixels.astype(np.float32)):
        with pytest.raises(UserError, match=r"uint8\[height, width, 3\] is needed"):
            classifier(wrong)


def test_pil_images_with_an_orientation_or_16_bits_are_those_that_their_paths_give(trained, photo, tmp_path):
    classifier = load(trained)
    picture = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    grey = np.asarray(picture.convert("L"))
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
    for path in (tmp_path / "turned.png", tmp_path / "deep.png"):
        assert torch.equal(classifier.preprocess(path), classifier.preprocess(Image.open(path)))
    assert Image.open(tmp_path / "deep.png").mode == "I;16"
    assert not torch.equal(classifier.preprocess(tmp_path / "turned.png"), classifier.preprocess(picture))


def test_fewer_than_one_class_is_refused(trained, photo):
    with pytest.raises(UserError, match="top is 0; it must be at least 1"):
        load(trained)(photo, top=0)


def test_many_pictures_are_classified_while_they_are_read(trained, drawn, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    inputs = [drawn.folder / "test_001.jpg", tmp_path / "broken.jpg", str(drawn.folder / "test_00[34].jpg")]
    found = list(predict(trained, inputs, top=2, batch_size=1))
    assert [one.name for one in found] == [
        str(drawn.folder / "test_001.jpg"),
        str(tmp_path / "broken.jpg"),
        *(str(drawn.folder / f"test_00{n}.jpg") for n in (3, 4)),
    ]
    assert [len(one.classes) for one in found] == [2, 0, 2, 2]
    assert [one.error is None for one in found] == [True, False, True, True]
    classifier = load(trained)
    for one in found:
        if one.error is None:
            (name, value), _ = one.classes
            first, expected = classifier(one.name, top=1)[0]
            assert (name, value) == (first, pytest.approx(expected, rel=1e-5))
    (single,) = predict(trained, drawn.folder / "test_001.jpg", crops=10)
    assert len(single.classes) == 4


def test_mistakes_are_errors_in_one_line(trained, photo, tmp_path):
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        load(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    for name, reason in (("broken.jpg", "is not a picture that"), ("gone.jpg", "can't be read: No such file")):
        with pytest.raises(UserError, match=rf"{name} {reason}"):
            load(trained)(tmp_path / name)
    with pytest.raises(UserError, match="crops must be 1 or 10"):
        list(predict(trained, photo, crops=3))
