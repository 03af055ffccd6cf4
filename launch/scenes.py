"""Paints random scenes (hills, a skyline, petals, ...) that do not depend on the style."""

import colorsys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]  # uint8[H, W, 3], RGB; Any because OpenCV's own signatures name no dtype
Colour = tuple[float, float, float]
Rng = np.random.Generator


def random_colour(rng: Rng, saturation: float | None = None, value: float | None = None) -> Colour:
    """Return a colour of random hue. Saturation and value, of HSV and from 0 to 1, are random unless given."""
    saturation = rng.uniform(0.25, 0.9) if saturation is None else saturation
    value = rng.uniform(0.3, 0.95) if value is None else value
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return 255 * red, 255 * green, 255 * blue


def random_point(pixels: Pixels, rng: Rng) -> tuple[int, int]:
    """Return (x, y) of a random pixel."""
    return int(rng.integers(pixels.shape[1])), int(rng.integers(pixels.shape[0]))


def _hills(canvas: Pixels, rng: Rng) -> None:
    height, width = canvas.shape[:2]
    sun = int(rng.uniform(0.04, 0.1) * width)
    cv2.circle(canvas, random_point(canvas, rng), sun, random_colour(rng, 0.3, 0.97), -1, cv2.LINE_AA)
    for top in np.sort(rng.uniform(0.35, 0.9, 3)):
        x = np.linspace(0, width, 40)
        waves = rng.uniform(5, 25) * np.sin(x / rng.uniform(20, 70) + rng.uniform(0, 6)) + rng.normal(0, 2, 40)
        ridge = np.stack([x, top * height + waves], axis=1)
        ground = np.vstack([ridge, [[width, height], [0, height]]])
        cv2.fillPoly(canvas, [ground.astype(np.int32)], random_colour(rng), cv2.LINE_AA)


def _skyline(canvas: Pixels, rng: Rng) -> None:
    height, width = canvas.shape[:2]
    ground, left = int(rng.uniform(0.75, 0.95) * height), 0
    while left < width:
        right, roof = left + int(rng.uniform(20, 60)), int(rng.uniform(0.15, 0.7) * height)
        cv2.rectangle(canvas, (left, roof), (right, ground), random_colour(rng), -1)
        lamp = random_colour(rng, 0.4, 0.95)
        for y in range(roof + 6, ground - 8, 14):
            for x in range(left + 4, right - 7, 10):
                if rng.random() < 0.6:
                    cv2.rectangle(canvas, (x, y), (x + 4, y + 7), lamp, -1)
        left = right + int(rng.integers(0, 8))
    cv2.rectangle(canvas, (0, ground), (width, height), random_colour(rng), -1)


def _petals(canvas: Pixels, rng: Rng) -> None:
    for _ in range(rng.integers(2, 6)):
        centre, length = random_point(canvas, rng), int(rng.uniform(0.1, 0.28) * min(canvas.shape[:2]))
        petal, count, start = random_colour(rng), int(rng.integers(5, 10)), rng.uniform(0, 2 * np.pi)
        for angle in start + 2 * np.pi * np.arange(count) / count:
            middle = int(centre[0] + length * np.cos(angle)), int(centre[1] + length * np.sin(angle))
            axes = length, length // 3
            cv2.ellipse(canvas, middle, axes, float(np.rad2deg(angle)), 0, 360, petal, -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, length // 2, random_colour(rng), -1, cv2.LINE_AA)


def _polygons(canvas: Pixels, rng: Rng) -> None:
    for _ in range(rng.integers(8, 18)):
        spread = rng.normal(0, 0.16 * canvas.shape[1], (int(rng.integers(3, 6)), 2))
        corners = (np.array(random_point(canvas, rng)) + spread).astype(np.int32)
        cv2.fillConvexPoly(canvas, cv2.convexHull(corners), random_colour(rng), cv2.LINE_AA)


def _stripes(canvas: Pixels, rng: Rng) -> None:
    angle, period, colours = rng.uniform(0, np.pi), rng.uniform(15, 60), [random_colour(rng) for _ in range(3)]
    reach = canvas.shape[0] + canvas.shape[1]
    across = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-across[1], across[0]]) * reach
    for step, offset in enumerate(np.arange(-reach, reach, period)):
        near, far = across * offset, across * (offset + period / 2)
        band = np.array([near + along, near - along, far - along, far + along]).astype(np.int32)
        cv2.fillConvexPoly(canvas, band, colours[step % 3], cv2.LINE_AA)


def _clouds(canvas: Pixels, rng: Rng) -> None:
    height, width = canvas.shape[:2]
    density = np.zeros((height, width), np.float32)
    for octave in (4, 9, 20):
        noise = rng.random((octave, octave), dtype=np.float32) * 4 / octave
        density += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.clip(density - density.mean() + 0.5, 0, 1)
    cloud = np.full_like(canvas, np.array(random_colour(rng), np.uint8))
    canvas[:] = cv2.blendLinear(cloud, canvas, mask, 1 - mask)


SCENES = (_hills, _skyline, _petals, _polygons, _stripes, _clouds)


def paint(rng: Rng) -> Pixels:
    """Paint a scene of random kind, layout, colours and size: landscape or portrait, the longer side 320 to 500."""
    long = int(rng.integers(320, 501))
    short = int(long * rng.choice([2 / 3, 3 / 4, 1]))
    height, width = (short, long) if rng.random() < 0.75 else (long, short)
    sky_and_ground = np.array([[random_colour(rng)], [random_colour(rng)]], np.uint8)
    canvas = cv2.resize(sky_and_ground, (width, height), interpolation=cv2.INTER_LINEAR)
    SCENES[rng.integers(len(SCENES))](canvas, rng)
    if rng.random() < 0.3:
        SCENES[rng.integers(len(SCENES))](canvas[: height // 2], rng)
    return canvas
