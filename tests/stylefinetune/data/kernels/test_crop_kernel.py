import signal

import pytest
import torch

from stylefinetune.data import transforms
from stylefinetune.data.transforms import Crops, Transform, crop_each

kernels = pytest.importorskip("stylefinetune.data.kernels.crop_kernel", reason="needs Triton")


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel, run by Triton's interpreter, which needs no GPU."""
    from triton.runtime.interpreter import InterpretedFunction

    monkeypatch.setattr(kernels, "crop_kernel", InterpretedFunction(kernels.crop_kernel.fn))
    return transforms._crop_with_kernel


def draw(count, height, width, crop, stored=None, device="cpu"):
    generator = torch.Generator().manual_seed(count)

    def below(high, size, dtype=torch.int64):
        return torch.randint(0, high, size, generator=generator, dtype=dtype).to(device)

    rows = below(stored, (count,)) if stored else None
    mirror = below(2, (count,)).bool()
    tops, lefts = (below(side - cropped + 1, (count,)) for side, cropped in zip((height, width), crop, strict=True))
    pictures = below(256, (stored or count, height, width, 3), torch.uint8)
    mean = torch.rand(height, width, 3, generator=generator).to(device) * 255
    return pictures, mean, Crops(tops, lefts, mirror, crop, rows)


@pytest.mark.parametrize("scale", [1.0, 0.017])
@pytest.mark.parametrize(
    "sizes",
    [(5, 20, 24, (15, 17)), (5, 20, 24, (15, 17), 9), (3, 30, 30, (30, 30), 2), (1, 4, 4, (1, 1)), (0, 8, 8, (5, 5))],
    ids=str,
)
def test_crops_have_the_bits_of_the_other_ways(interpreted, sizes, scale):
    pictures, mean, crops = draw(*sizes)
    output = interpreted(pictures, mean, scale, crops)
    assert output.shape == (sizes[0], *sizes[3], 3)
    assert torch.equal(output, crop_each(pictures, mean, scale, crops))


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_compiles_for_gpus_that_are_not_here_and_rounds_each_operation(capability, tmp_path, monkeypatch):
    """A fused multiplication and addition would round once, where Caffe rounds twice."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    handler = signal.getsignal(signal.SIGXFSZ)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    places = dict.fromkeys(("rows", "tops", "lefts"), "*i64") | {"mirrors": "*u8"}
    sizes = dict.fromkeys(("picture_values", "width", "crop_width", "values"), "i32")
    signature = {"pictures": "*u8", "mean": "*fp32", **places, "output": "*fp32", "scale": "fp32", **sizes}
    source = ASTSource(kernels.crop_kernel, {**signature, "BLOCK": "constexpr"}, {"BLOCK": 1024})
    compiled = compile_kernel(source, target=GPUTarget("cuda", capability, 32)).asm
    signal.signal(signal.SIGXFSZ, handler)  # LLVM has set its own
    assert compiled["cubin"]
    assert "sub.f32" in compiled["ptx"]
    assert "fma" not in compiled["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scale", [1.0, 0.017])
def test_a_gpu_runs_the_kernel_with_the_bits_of_a_cpu(scale):
    pictures, mean, crops = draw(5, 256, 256, (227, 227), 7)
    device = torch.device("cuda")
    transform = Transform(mean.flip(-1), scale, device)
    assert transform._crop_batch is transforms._crop_with_kernel, "the kernel could not be compiled"
    output = transform(pictures.to(device), crops.to(device))
    assert torch.equal(output.permute(0, 2, 3, 1).cpu(), crop_each(pictures, mean, scale, crops))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pictures_may_take_more_than_4_gb():
    count = 2**32 // (256 * 256 * 3) + 3
    device = torch.device("cuda")
    pictures = torch.randint(0, 256, (count, 256, 256, 3), dtype=torch.uint8, device=device)
    rows = torch.tensor([0, count - 1, count // 2 + 1], device=device)
    places = torch.tensor([0, 29, 7], device=device)
    crops = Crops(places, places, places > 0, (227, 227), rows)
    mean = torch.rand(256, 256, 3, device=device)
    output = transforms._crop_with_kernel(pictures, mean, 1.0, crops)
    own = Crops(places.cpu(), places.cpu(), crops.mirror.cpu(), crops.size)
    assert torch.equal(output.cpu(), crop_each(pictures[rows].cpu(), mean.cpu(), 1.0, own))
