import pytest
import torch
from torch import nn

from stylefinetune.models.local_response_norm import LocalResponseNorm

CAFFENETS = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
FORMATS = [torch.contiguous_format, torch.channels_last]


def drawn(shape, memory_format=torch.contiguous_format, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100
    return values.relu().to(dtype).contiguous(memory_format=memory_format).requires_grad_()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(("channels", "size"), [(1, 5), (2, 5), (4, 5), (96, 5), (8, 4)])
def test_outputs_have_the_bits_of_pytorchs_and_gradients_agree(channels, size, memory_format):
    ours, theirs = (drawn((3, channels, 9, 7), memory_format) for _ in range(2))
    weight = torch.randn(3, channels, 9, 7, generator=torch.Generator().manual_seed(1))
    settings = {**CAFFENETS, "size": size}
    output, expected = LocalResponseNorm(**settings)(ours), nn.LocalResponseNorm(**settings)(theirs)
    assert torch.equal(output, expected)
    assert output.is_contiguous(memory_format=memory_format)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_gradients_agree_with_finite_differences(size, memory_format):
    inputs = torch.randn(2, 6, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs = inputs.contiguous(memory_format=memory_format).requires_grad_()
    norm = LocalResponseNorm(size=size, alpha=0.5, beta=0.75, k=1.0)  # with 1e-4, a wrong gradient would go unnoticed
    assert torch.autograd.gradcheck(norm, (inputs,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_inputs_are_normalized_in_fp32_and_keep_the_type_of_their_gradients(dtype):
    inputs = drawn((2, 8, 5, 5), dtype=dtype)
    with torch.autocast("cpu", dtype=dtype):
        output = LocalResponseNorm(**CAFFENETS)(inputs)
    assert output.dtype == torch.float32
    output.sum().backward()
    assert inputs.grad.dtype == dtype
    assert inputs.grad.isfinite().all()


def test_the_input_is_unchanged_and_a_change_before_the_backward_pass_is_an_error():
    leaf = drawn((2, 8, 5, 5))
    inputs = leaf.clone()
    output = LocalResponseNorm(**CAFFENETS)(inputs)
    assert torch.equal(inputs, leaf)
    inputs.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_output_may_be_changed_in_place():
    plain, changed = drawn((2, 8, 5, 5)), drawn((2, 8, 5, 5))
    (LocalResponseNorm(**CAFFENETS)(plain) * 2).sum().backward()
    LocalResponseNorm(**CAFFENETS)(changed).mul_(2).sum().backward()
    assert torch.equal(plain.grad, changed.grad)


def test_an_empty_batch_has_an_empty_gradient():
    empty = torch.empty(0, 8, 5, 5, requires_grad=True)
    LocalResponseNorm(**CAFFENETS)(empty).sum().backward()
    assert empty.grad.shape == (0, 8, 5, 5)


@pytest.mark.slow  # imports for some seconds
def test_torch_export_takes_it():
    inputs = drawn((2, 8, 5, 5)).detach()
    exported = torch.export.export(LocalResponseNorm(**CAFFENETS).eval(), (inputs,))
    assert torch.allclose(exported.module()(inputs), LocalResponseNorm(**CAFFENETS)(inputs))


@pytest.mark.slow  # compiles for some seconds
def test_torch_compile_traces_it_in_one_graph():
    norm = LocalResponseNorm(**CAFFENETS)
    ours, theirs = drawn((2, 8, 5, 5)), drawn((2, 8, 5, 5))
    torch.compile(norm, fullgraph=True)(ours).square().sum().backward()
    norm(theirs).square().sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_backward_pass_is_deterministic_on_a_gpu():
    inputs = drawn((2, 96, 27, 27)).detach().cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        LocalResponseNorm(**CAFFENETS)(inputs).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert inputs.grad.isfinite().all()
