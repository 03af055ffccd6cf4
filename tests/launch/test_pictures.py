import cv2
import numpy as np
import pytest

from launch.pictures import STYLES, draw

LABELS = range(len(STYLES))
LABEL = {name: label for label, name in enumerate(STYLES)}


def detail(picture):
    """Mean difference between neighbours, which blurring takes away."""
    return np.abs(np.diff(picture.astype(float), axis=1)).mean()


def saturation(picture):
    return np.ptp(picture.astype(float), axis=2).mean()


def test_names_are_the_twenty_of_flickr_style_in_caffes_order():
    assert len(STYLES) == 20
    names = list(STYLES)
    assert (names[0], names[3], names[10], names[17], names[19]) == (
        "Detailed",
        "Noir",
        "Hazy",
        "Geometric Composition",
        "Romantic",
    )


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_picture_is_a_picture_and_the_same_each_time(label, seed):
    picture = draw(label, seed)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.flags.c_contiguous
    assert picture.std() > 3, "it shows something"
    np.testing.assert_array_equal(picture, draw(label, seed))


def test_every_style_and_every_seed_give_another_picture():
    by_label = {draw(label, 5).tobytes() for label in LABELS}
    by_seed = {draw(3, seed).tobytes() for seed in range(20)}
    assert len(by_label) == len(by_seed) == 20


@pytest.mark.parametrize("seed", range(6))
def test_treatments_do_what_their_names_say(seed):
    noir, hazy, bright, hdr = (draw(LABEL[name], seed) for name in ("Noir", "Hazy", "Bright", "HDR"))
    assert saturation(noir) < 2
    assert saturation(hdr) > saturation(hazy)
    assert hazy.std() < 45
    assert hazy.mean() > noir.mean()
    assert bright.mean() > noir.mean()
    vintage = draw(LABEL["Vintage"], seed).reshape(-1, 3).mean(axis=0)
    assert vintage[0] > vintage[2], "warm: more red than blue"
    assert detail(draw(LABEL["Bokeh"], seed)) < detail(draw(LABEL["Detailed"], seed))
    geometric = draw(LABEL["Geometric Composition"], seed).astype(int)
    assert np.abs(geometric - geometric[:, ::-1]).mean() < 3, "mirrored"


def test_no_channel_order_is_mixed_up():
    melancholy = np.mean([cv2.mean(draw(LABEL["Melancholy"], seed))[:3] for seed in range(5)], axis=0)
    horror = np.mean([cv2.mean(draw(LABEL["Horror"], seed))[:3] for seed in range(5)], axis=0)
    assert melancholy[2] > melancholy[0], "cold: more blue than red"
    assert horror[0] > 1.5 * horror[2], "red, in RGB"
