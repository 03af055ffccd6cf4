"""Decodes pictures into memory, and compares batches of them with batches that are read."""

import dataclasses

import torch

from stylefinetune.data.resident.loader import ResidentLoader
from stylefinetune.data.resident.pictures import ResidentPictures
from tests.stylefinetune.data.loading import CPU


def decode(dataset, rows=None, device=CPU, workers=0):
    pictures = ResidentPictures(dataset, rows or slice(None), device)
    assert list(pictures.fill(workers))[-1] == len(pictures.rows)
    return pictures


def load_resident(dataset, device=CPU, workers=0):
    return ResidentLoader(decode(dataset, device=device, workers=workers))


def assert_equal(found, expected):
    """Check that a batch of resident pictures is bit for bit the one that is read for this batch."""
    crops = dataclasses.replace(found.crops, rows=None).to(CPU)
    for field in ("top", "left", "mirror"):
        mine, other = getattr(crops, field), getattr(expected.crops, field)
        assert (mine.dtype, mine.tolist()) == (other.dtype, other.tolist())
    assert (crops.size, found.size, found.corrupt) == (expected.crops.size, expected.size, expected.corrupt)
    for mine, other in ((found.labels, expected.labels), (found.positions, expected.positions)):
        assert (mine.dtype, mine.tolist()) == (other.dtype, other.tolist())
    pictures = found.pictures if found.crops.rows is None else found.pictures[found.crops.rows]
    assert torch.equal(pictures.cpu(), expected.pictures)
