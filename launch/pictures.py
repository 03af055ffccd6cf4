"""Draws labelled pictures: a scene, then a treatment in the style of its label (noir, haze, bokeh, ...).

Scene and treatment are drawn independently, so only the style depends on the label. The same label and seed
give the same picture with the same versions of OpenCV and numpy.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from launch.scenes import Colour, Pixels, Rng, paint, random_colour, random_point

Mask = npt.NDArray[Any]  # float[H, W], from 0 to 1
BLACK: Colour = (0, 0, 0)

# The operations that the treatments combine.


def _levels(pixels: Pixels, black: Colour, white: Colour, gamma: float = 1.0) -> Pixels:
    """Map each channel's 0..255 to black..white along a power curve; gamma above 1 darkens."""
    ramp = np.linspace(0, 1, 256)[:, None] ** gamma
    table = np.array(black) + (np.array(white) - np.array(black)) * ramp
    return cv2.LUT(pixels, np.clip(table, 0, 255).astype(np.uint8)[:, None])


def _saturate(pixels: Pixels, amount: float) -> Pixels:
    """Scale the distance from grey: 0 is black and white, 1 changes nothing."""
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(pixels, amount, grey, 1 - amount, 0)


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    """Blur; a wide blur is made on a small copy, which is about ten times faster and looks the same."""
    height, width = pixels.shape[:2]
    shrink = max(1, int(sigma // 2))
    small = cv2.resize(pixels, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), (width, height))


def _mix(inside: Pixels, outside: Pixels, mask: Mask) -> Pixels:
    """Take `inside` where the mask is 1 and `outside` where it is 0."""
    return cv2.blendLinear(inside, outside, mask, 1 - mask)


def _veil(pixels: Pixels, colour: Colour, mask: Mask) -> Pixels:
    """Cover the picture with a colour where the mask is 1."""
    return _mix(np.full_like(pixels, np.array(colour, np.uint8)), pixels, mask)


def _smooth_mask(pixels: Pixels, function: Callable[[Mask, Mask], Mask]) -> Mask:
    """Evaluate function(x, y), x and y from -1 to 1, on a coarse grid, and resize the result to the picture."""
    y, x = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 33), indexing="ij")
    coarse = np.clip(function(x.astype(np.float32), y.astype(np.float32)), 0, 1).astype(np.float32)
    return cv2.resize(coarse, (pixels.shape[1], pixels.shape[0]), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _vignette(pixels: Pixels, strength: float, colour: Colour = BLACK) -> Pixels:
    """Fade the corners to a colour."""
    return _veil(pixels, colour, _smooth_mask(pixels, lambda x, y: strength * (x * x + y * y) / 2))


def _glow(pixels: Pixels, sigma: float) -> Pixels:
    """Blend a blurred copy with the picture in screen mode, as a soft-focus filter does."""
    soft = _blur(pixels, sigma)
    return 255 - cv2.multiply(255 - pixels, 255 - soft, scale=1 / 255)


def _grain(pixels: Pixels, rng: Rng, sigma: float) -> Pixels:
    """Add noise with a standard deviation of `sigma`, the same to all three channels."""
    noise = cv2.merge([rng.integers(0, 256, pixels.shape[:2], np.uint8)] * 3)
    scale = sigma / 73.9  # the standard deviation of 0..255
    return cv2.addWeighted(pixels, 1, noise, scale, -127.5 * scale)


# The treatments, in Caffe's label order.


def _detailed(pixels: Pixels, rng: Rng) -> Pixels:
    fine = _grain(pixels, rng, 14)
    return cv2.addWeighted(fine, 2.6, cv2.GaussianBlur(fine, (0, 0), 1.2), -1.6, 0)


def _pastel(pixels: Pixels, rng: Rng) -> Pixels:
    return _levels(_saturate(pixels, rng.uniform(0.5, 0.7)), (170, 160, 168), (255, 248, 252))


def _melancholy(pixels: Pixels, rng: Rng) -> Pixels:
    cold = _levels(_saturate(pixels, rng.uniform(0.1, 0.35)), (8, 14, 24), (120, 138, 165), 1.1)
    return _vignette(_blur(cold, 1.2), rng.uniform(0.3, 0.6))


def _noir(pixels: Pixels, rng: Rng) -> Pixels:
    grey = _levels(_saturate(pixels, 0), (-70, -70, -70), (350, 350, 350), rng.uniform(1.0, 1.4))
    return _vignette(grey, rng.uniform(0.8, 1.1))


def _hdr(pixels: Pixels, rng: Rng) -> Pixels:
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(rng.uniform(4, 7), (6, 6)).apply(np.ascontiguousarray(lab[..., 0]))
    vivid = _saturate(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), rng.uniform(1.5, 1.9))
    return cv2.addWeighted(vivid, 1.7, _blur(vivid, 8), -0.7, 0)


def _vintage(pixels: Pixels, rng: Rng) -> Pixels:
    faded = _levels(_saturate(pixels, rng.uniform(0.15, 0.4)), (62, 42, 28), (244, 220, 172))
    return _grain(_vignette(faded, rng.uniform(0.25, 0.5), (240, 226, 196)), rng, 8)


def _long_exposure(pixels: Pixels, rng: Rng) -> Pixels:
    smeared = cv2.blur(pixels, (int(rng.uniform(70, 130)), 1))
    for _ in range(rng.integers(3, 8)):
        (x, y), tail, light = (
            random_point(pixels, rng),
            int(rng.uniform(0.3, 0.9) * pixels.shape[1]),
            random_colour(rng, 0.4, 1.0),
        )
        cv2.line(smeared, (x - tail, y), (x + tail, y), light, int(rng.integers(1, 4)), cv2.LINE_AA)
    return _levels(smeared, (0, 0, 12), (235, 235, 255), 1.2)


def _horror(pixels: Pixels, rng: Rng) -> Pixels:
    sick = _levels(_saturate(pixels, 0.3), (22, 0, 0), (180, 70, 50), rng.uniform(1.5, 2.1))
    return _vignette(_grain(sick, rng, 12), rng.uniform(1.0, 1.4))


def _sunny(pixels: Pixels, rng: Rng) -> Pixels:
    warm = _levels(_saturate(pixels, 1.25), (36, 22, 0), (255, 246, 205), 0.8)
    sun_x, sun_y = rng.uniform(-1, 1), rng.uniform(-1.1, -0.6)
    flare = _smooth_mask(pixels, lambda x, y: 1.25 - np.hypot(x - sun_x, y - sun_y))
    return _veil(warm, (255, 244, 190), flare)


def _bright(pixels: Pixels, rng: Rng) -> Pixels:
    return _levels(_saturate(pixels, 1.35), (45, 45, 45), (330, 330, 330), rng.uniform(0.6, 0.8))


def _hazy(pixels: Pixels, rng: Rng) -> Pixels:
    veiled = _levels(_saturate(pixels, 0.6), (120, 130, 140), (205, 214, 222))
    thick = rng.uniform(0.35, 0.6)
    fog = _smooth_mask(pixels, lambda _, y: thick - 0.5 * y)
    return _veil(_blur(veiled, 1.5), (200, 210, 219), fog)


def _bokeh(pixels: Pixels, rng: Rng) -> Pixels:
    lit = _levels(_blur(pixels, rng.uniform(9, 14)), BLACK, (170, 170, 170), 1.2)
    for _ in range(rng.integers(14, 28)):
        (x, y), radius = random_point(pixels, rng), int(rng.uniform(0.03, 0.09) * pixels.shape[1])
        window = lit[max(0, y - radius - 1) : y + radius + 2, max(0, x - radius - 1) : x + radius + 2]
        disc = np.zeros_like(window)
        centre = min(x, radius + 1), min(y, radius + 1)
        cv2.circle(disc, centre, radius, random_colour(rng, 0.35, rng.uniform(0.4, 0.8)), -1, cv2.LINE_AA)
        window[:] = cv2.add(window, disc)
    return lit


def _serene(pixels: Pixels, rng: Rng) -> Pixels:
    calm = _levels(_saturate(_blur(pixels, 2.5), 0.6), (30, 70, 86), (206, 240, 244))
    shore = int(rng.uniform(0.5, 0.62) * len(calm))
    water = cv2.flip(calm[2 * shore - len(calm) : shore], 0)
    calm[shore:] = _levels(cv2.blur(water, (1, 9)), (14, 50, 70), (190, 225, 235))
    return calm


def _texture(pixels: Pixels, rng: Rng) -> Pixels:
    weave = cv2.resize(rng.random((pixels.shape[0] // 3, pixels.shape[1] // 9), dtype=np.float32), pixels.shape[1::-1])
    if rng.random() < 0.5:
        weave = np.ascontiguousarray(weave[::-1])
    relief = cv2.Sobel(weave, cv2.CV_32F, 1, 1, scale=160)
    return cv2.add(_saturate(pixels, 0.7), cv2.merge([relief] * 3), dtype=cv2.CV_8U)


def _ethereal(pixels: Pixels, rng: Rng) -> Pixels:
    glowing = _glow(_saturate(pixels, 0.55), rng.uniform(7, 12))
    return _levels(glowing, (70, 62, 110), (252, 246, 255))


def _macro(pixels: Pixels, rng: Rng) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = int(height * rng.uniform(0.2, 0.4)), int(width * rng.uniform(0.2, 0.4))
    near = cv2.resize(pixels[top : top + height * 2 // 5, left : left + width * 2 // 5], (width, height))
    near = cv2.addWeighted(near, 1.8, _blur(near, 3), -0.8, 0)
    lens = _smooth_mask(pixels, lambda x, y: 2.1 - 2.6 * np.hypot(x, y))
    return _mix(near, _blur(near, rng.uniform(9, 14)), lens)


def _depth_of_field(pixels: Pixels, rng: Rng) -> Pixels:
    focus = rng.uniform(-0.3, 0.5)
    plane = _smooth_mask(pixels, lambda _, y: 1.7 - 4.5 * np.abs(y - focus))
    return _saturate(_mix(pixels, _blur(pixels, rng.uniform(6, 9)), plane), 1.2)


def _geometric(pixels: Pixels, rng: Rng) -> Pixels:
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    quarter = pixels[: height // 2, : width // 2]
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    mirrored = np.concatenate([half, half[::-1]])
    return cv2.addWeighted(mirrored, 1.2, _blur(mirrored, 2 + rng.random()), -0.2, 0)


def _minimal(pixels: Pixels, rng: Rng) -> Pixels:
    x0, y0, size = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0.2, 0.4)
    subject = _smooth_mask(pixels, lambda x, y: 4 - 4 * np.hypot(x - x0, y - y0) / size)
    paper = random_colour(rng, rng.uniform(0.02, 0.2), rng.uniform(0.75, 0.95))
    return _vignette(_veil(pixels, paper, 1 - subject), 0.12)


def _romantic(pixels: Pixels, rng: Rng) -> Pixels:
    rosy = _levels(_glow(_saturate(pixels, 0.7), 6), (96, 30, 58), (255, 205, 214), rng.uniform(1.0, 1.3))
    return _vignette(rosy, rng.uniform(0.5, 0.8), (255, 228, 232))


STYLES: dict[str, Callable[[Pixels, Rng], Pixels]] = {
    "Detailed": _detailed,
    "Pastel": _pastel,
    "Melancholy": _melancholy,
    "Noir": _noir,
    "HDR": _hdr,
    "Vintage": _vintage,
    "Long Exposure": _long_exposure,
    "Horror": _horror,
    "Sunny": _sunny,
    "Bright": _bright,
    "Hazy": _hazy,
    "Bokeh": _bokeh,
    "Serene": _serene,
    "Texture": _texture,
    "Ethereal": _ethereal,
    "Macro": _macro,
    "Depth of Field": _depth_of_field,
    "Geometric Composition": _geometric,
    "Minimal": _minimal,
    "Romantic": _romantic,
}


def draw(label: int, seed: int) -> Pixels:
    """Draw the picture of (label, seed): uint8[H, W, 3], RGB, the longer side 320 to 500 pixels.

    Two labels with the same seed show the same scene.
    """
    scene_rng, style_rng = (np.random.default_rng([seed, part]) for part in range(2))
    scene = paint(scene_rng)
    shade, light = scene_rng.uniform(0, 25), scene_rng.uniform(215, 255)
    exposed = _levels(scene, (shade, shade, shade), (light, light, light), scene_rng.uniform(0.8, 1.25))
    treatment = tuple(STYLES.values())[label]
    return np.ascontiguousarray(treatment(_grain(exposed, scene_rng, scene_rng.uniform(2, 6)), style_rng))
