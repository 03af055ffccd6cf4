import dataclasses
import sys

import numpy as np
import pytest
import torch

from benchmarks.caffe_results import digest, mean_picture, read_pictures
from shards.format.images import decode_picture, resize_picture
from stylefinetune.data import transforms
from stylefinetune.data.transforms import Crops, Transform, crop_together

CPU = torch.device("cpu")


def transform_like_caffe(picture, mean, top, left, mirror, scale):
    """Transform one picture by Caffe's DataTransformer rules, pixel by pixel."""
    height, width = 7, 9
    out = np.empty((3, height, width), np.float32)
    for channel in range(3):
        for row in range(height):
            for column in range(width):
                at = width - 1 - column if mirror else column
                rgb = 2 - channel
                value = np.float32(picture[top + row, left + column, rgb])
                out[channel, row, at] = (value - mean[top + row, left + column, rgb]) * np.float32(scale)
    return out


def on_the_whole_batch(transform, pictures, crops):
    mean = transform._mean.expand(pictures.shape[1:])
    channels = transform._crop_batch.keywords["channels"]
    return crop_together(pictures, mean, transform._scale, crops, channels=channels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("scale", [1.0, 0.00390625, 0.017])
@pytest.mark.parametrize("way", [Transform.__call__, on_the_whole_batch], ids=["on a CPU", "as on a GPU"])
def test_crop_mean_scale_mirror_and_channels_are_bitwise_equal_to_caffe(way, scale):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 12, 14, 3), dtype=np.uint8)
    mean = rng.uniform(90, 130, (12, 14, 3)).astype(np.float32)
    tops, lefts, mirrors = [0, 5, 3], [5, 0, 2], [False, True, True]
    crops = Crops(torch.tensor(tops), torch.tensor(lefts), torch.tensor(mirrors), (7, 9))
    kept = pictures.copy()
    out = way(Transform(torch.from_numpy(mean), scale, CPU), torch.from_numpy(pictures), crops)
    assert out.shape == (3, 3, 7, 9)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(pictures, kept)
    for index in range(3):
        expected = transform_like_caffe(pictures[index], mean, tops[index], lefts[index], mirrors[index], scale)
        assert np.array_equal(out[index].numpy(), expected)


def test_mean_values_are_subtracted_from_every_pixel():
    crops = Crops(torch.tensor([1]), torch.tensor([1]), torch.tensor([False]), (2, 2))
    pictures = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    out = Transform(torch.tensor([[[1.0, 2.0, 3.0]]]), 1.0, CPU)(pictures, crops)
    assert out[0, :, 0, 0].tolist() == [97.0, 98.0, 99.0]


@pytest.mark.parametrize("way", [Transform.__call__, on_the_whole_batch], ids=["on a CPU", "as on a GPU"])
@pytest.mark.parametrize("std", [(4.0, 5.0, 8.0), (4.0,), ()])
def test_rgb_is_divided_by_the_standard_deviation_of_each_channel(way, std):
    pictures = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(1, 4, 5, 3)
    crops = Crops(torch.tensor([1]), torch.tensor([2]), torch.tensor([True]), (2, 3))
    transform = Transform(torch.tensor([[[1.0, 2.0, 3.0]]]), 0.5, CPU, channels="rgb", std=std)
    expected = (pictures[0, 1:3, 2:5].flip(1).float() - torch.tensor([1.0, 2, 3])) * 0.5 / torch.tensor(std or (1.0,))
    torch.testing.assert_close(way(transform, pictures, crops)[0], expected.permute(2, 0, 1))


def test_bgr_is_divided_by_the_standard_deviations_in_its_own_order():
    pictures = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 1, 3)
    crops = Crops(torch.tensor([0]), torch.tensor([0]), torch.tensor([False]), (1, 1))
    out = Transform(torch.zeros(1, 1, 3), 1.0, CPU, std=(3.0, 2.0, 1.0))(pictures, crops)
    assert out.flatten().tolist() == [10, 10, 10]


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 64, 227])
def test_both_ways_are_bitwise_equal_at_any_width(width):
    generator = torch.Generator().manual_seed(width)
    pictures = torch.randint(0, 256, (4, 6, width + 3, 3), generator=generator, dtype=torch.uint8)
    mean = torch.rand(6, width + 3, 3, generator=generator) * 255
    crops = Crops(torch.tensor([0, 1, 2, 0]), torch.arange(4), torch.tensor([True, False, True, True]), (4, width))
    transform = Transform(mean, 0.017, CPU)
    assert torch.equal(transform(pictures, crops), on_the_whole_batch(transform, pictures, crops))


@pytest.mark.parametrize("way", [Transform.__call__, on_the_whole_batch], ids=["on a CPU", "as on a GPU"])
def test_crops_may_choose_their_pictures_by_row(way):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (5, 12, 12, 3), generator=generator, dtype=torch.uint8)
    mean = torch.rand(12, 12, 3, generator=generator) * 255
    crops = Crops(torch.arange(4), torch.arange(4), torch.arange(4) > 1, (7, 7))
    rows = torch.tensor([4, 0, 4, 2])
    transform = Transform(mean, 1.0, CPU)
    chosen = way(transform, pictures, dataclasses.replace(crops, rows=rows))
    assert torch.equal(chosen, transform(pictures[rows], crops))


def test_where_the_kernel_cannot_be_compiled_the_plain_operations_are_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as in PyTorch's builds for CPUs
    monkeypatch.delitem(sys.modules, "stylefinetune.data.kernels.crop_kernel", raising=False)
    assert transforms._load_kernel(CPU) is crop_together


def test_an_empty_batch_stays_empty():
    empty = torch.empty(0, dtype=torch.int64)
    crops = Crops(empty, empty, torch.empty(0, dtype=torch.bool), (5, 5))
    out = Transform(torch.zeros(8, 8, 3), 1.0, CPU)(torch.empty(0, 8, 8, 3, dtype=torch.uint8), crops)
    assert out.shape == (0, 3, 5, 5)


def test_the_network_input_equals_caffes_for_its_own_pictures(golden):
    names = [line.split()[0] for line in (golden / "preproc" / "list.txt").read_text().splitlines()]
    pixels = [resize_picture(decode_picture((golden / "preproc" / name).read_bytes()), 256) for name in names]
    mean = torch.from_numpy(mean_picture()).permute(1, 2, 0).flip(-1)
    centre = torch.full((len(names),), 14)
    crops = Crops(centre, centre, torch.zeros(len(names), dtype=torch.bool), (227, 227))
    out = Transform(mean, 1.0, CPU)(torch.from_numpy(np.stack(pixels)), crops)
    assert [digest(data) for data in out.numpy()] == read_pictures(golden)[1]


@pytest.mark.gpu
def test_a_gpu_is_bitwise_equal_to_a_cpu():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (5, 20, 20, 3), generator=generator, dtype=torch.uint8)
    mean = torch.rand(20, 20, 3, generator=generator) * 255
    crops = Crops(torch.arange(5), torch.arange(5), torch.tensor([True, False, True, False, True]), (15, 15))
    on_cpu = Transform(mean, 1.0, CPU)(pictures, crops)
    on_gpu = Transform(mean, 1.0, torch.device("cuda"))(pictures, crops)
    assert torch.equal(on_cpu, on_gpu.cpu())
