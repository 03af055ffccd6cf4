"""A kernel for GPUs that gathers, crops, mirrors and normalizes a batch of pictures in one pass."""

# Triton compiles a kernel for the types of its arguments, which are not declared.
# pyright: reportMissingParameterType=false, reportArgumentType=false

import torch
import triton
import triton.language as tl

_BLOCK = 1024  # values that one program writes


def crop_batch(
    pictures: torch.Tensor,
    mean: torch.Tensor,
    scale: float,
    places: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    size: tuple[int, int],
) -> torch.Tensor:
    """Return (value - mean) * scale of each crop, BGR, float32[B, *size, 3].

    All tensors are on one GPU and contiguous.

    Args:
        pictures: uint8[N, H, W, 3], RGB.
        mean: float32[H, W, 3], BGR.
        scale: factor applied after the mean is subtracted.
        places: row of the picture, top and left of the crop, int64[B], and whether it is mirrored, bool[B].
        size: (height, width) of the crops.
    """
    assert pictures.is_contiguous()
    assert mean.is_contiguous()
    assert mean.shape == pictures.shape[1:]
    _, height, width, _ = pictures.shape
    rows, tops, lefts, mirror = places
    output = torch.empty(len(rows), *size, 3, dtype=torch.float32, device=pictures.device)
    values = size[0] * size[1] * 3
    if output.numel():
        grid = (triton.cdiv(values, _BLOCK), len(rows))
        arrays = (pictures, mean, rows, tops, lefts, mirror.view(torch.uint8), output)
        crop_kernel[grid](*arrays, scale, height * width * 3, width, size[1], values, BLOCK=_BLOCK)
    return output


# Slices of a table have any alignment, and no iteration should wait for the compilation of another variant.
@triton.jit(do_not_specialize_on_alignment=["rows", "tops", "lefts", "mirrors"])
def crop_kernel(  # noqa: PLR0913, PLR0917 -- a kernel can't take structures
    pictures,
    mean,
    rows,
    tops,
    lefts,
    mirrors,
    output,
    scale,
    picture_values,
    width,
    crop_width,
    values,
    BLOCK: tl.constexpr,  # noqa: N803 -- Triton's convention for constants
) -> None:
    """Write the next BLOCK values of one crop, which has `values`."""
    picture = tl.program_id(1)
    value = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = value < values
    channel, pixel = value % 3, value // 3
    row, column = pixel // crop_width, pixel % crop_width
    mirrored = tl.load(mirrors + picture) != 0
    # A mirrored crop has the same columns in reverse order; the mean is mirrored too.
    column = tl.where(mirrored, crop_width - 1 - column, column)
    place = (tl.load(tops + picture) + row) * width + tl.load(lefts + picture) + column
    first = tl.load(rows + picture).to(tl.int64) * picture_values  # of 64 bits: the pictures may exceed 2 GB
    rgb = tl.load(pictures + first + place * 3 + 2 - channel, mask=inside, other=0)
    difference = rgb.to(tl.float32) - tl.load(mean + place * 3 + channel, mask=inside, other=0.0)
    tl.store(output + picture.to(tl.int64) * values + value, difference * scale, mask=inside)
