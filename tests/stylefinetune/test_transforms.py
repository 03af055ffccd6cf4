import numpy as np
import pytest
import torch

from stylefinetune.transforms import Crops, Transform

CPU = torch.device("cpu")


def as_caffe_does(picture, mean, top, left, size, mirror):
    """Transforms one picture by Caffe's DataTransformer rules, a pixel at a time."""
    out = np.empty((3, size, size), np.float32)
    for channel in range(3):
        for row in range(size):
            for column in range(size):
                at = size - 1 - column if mirror else column
                rgb = 2 - channel
                level = np.float32(picture[top + row, left + column, rgb])
                out[channel, row, at] = level - mean[top + row, left + column, rgb]
    return out


def test_cut_mean_mirror_and_channels_follow_caffe_to_the_bit():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    mean = rng.uniform(90, 130, (12, 12, 3)).astype(np.float32)
    tops, lefts, mirrors = [0, 5, 3], [5, 0, 2], [False, True, True]
    crops = Crops(torch.tensor(tops), torch.tensor(lefts), torch.tensor(mirrors))
    out = Transform(torch.from_numpy(mean), CPU)(torch.from_numpy(pictures), crops, 7)
    assert out.shape == (3, 3, 7, 7)
    assert out.is_contiguous()
    for place in range(3):
        expected = as_caffe_does(pictures[place], mean, tops[place], lefts[place], 7, mirrors[place])
        assert np.array_equal(out[place].numpy(), expected)


def test_levels_are_subtracted_everywhere():
    crops = Crops(torch.tensor([1]), torch.tensor([1]), torch.tensor([False]))
    pictures = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    out = Transform(torch.tensor([[[1.0, 2.0, 3.0]]]), CPU)(pictures, crops, 2)
    assert out[0, :, 0, 0].tolist() == [97.0, 98.0, 99.0]


def test_a_slice_without_pictures_gives_an_empty_batch():
    nothing = torch.empty(0, dtype=torch.int64)
    crops = Crops(nothing, nothing, torch.empty(0, dtype=torch.bool))
    out = Transform(torch.zeros(8, 8, 3), CPU)(torch.empty(0, 8, 8, 3, dtype=torch.uint8), crops, 5)
    assert out.shape == (0, 3, 5, 5)


def test_the_net_input_is_caffes_on_its_own_pictures(golden):
    truth = np.load(golden / "preproc" / "preproc_golden.npz")
    resized = torch.from_numpy(truth["resized_bgr_u8"][:3]).permute(0, 2, 3, 1).flip(-1).contiguous()
    from stylefinetune.caffe_files import read_mean

    mean = torch.from_numpy(read_mean(golden / "preproc" / "mean256.binaryproto")).permute(1, 2, 0).flip(-1)
    centre = torch.full((3,), 14)
    crops = Crops(centre, centre, torch.zeros(3, dtype=torch.bool))
    out = Transform(mean, CPU)(resized, crops, 227)
    assert np.array_equal(out.numpy(), truth["data_first3"])


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (5, 20, 20, 3), generator=generator, dtype=torch.uint8)
    mean = torch.rand(20, 20, 3, generator=generator) * 255
    crops = Crops(torch.arange(5), torch.arange(5), torch.tensor([True, False, True, False, True]))
    here = Transform(mean, CPU)(pictures, crops, 15)
    there = Transform(mean, torch.device("cuda"))(pictures, crops, 15)
    assert torch.equal(here, there.cpu())
