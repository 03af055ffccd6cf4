"""Initial weights as Caffe's fillers draw them."""

import math
from typing import Any

import torch

from stylefinetune.caffe.layers import Layer
from stylefinetune.caffe.schema import enum_name


@torch.no_grad()
def fill(tensor: torch.Tensor, filler: Any, layer: Layer, generator: torch.Generator) -> None:  # noqa: ANN401 -- a message class made at run time
    """Fill a blob in place, as a FillerParameter of `layer` says.

    Source: filler.hpp of Caffe. `fan_in` is the number of weights of an output, `fan_out` that of weights with an input
    channel, for fully connected layers the outputs.

    Raises:
        UserError: the filler is not supported.
    """
    match filler.type:
        case "constant":
            tensor.fill_(filler.value)
        case "uniform":
            tensor.uniform_(filler.min, filler.max, generator=generator)
        case "gaussian" if filler.sparse < 0:
            tensor.normal_(filler.mean, filler.std, generator=generator)
        case "xavier":
            limit = math.sqrt(3 / _fan(tensor, filler))
            tensor.uniform_(-limit, limit, generator=generator)
        case "msra":
            tensor.normal_(0, math.sqrt(2 / _fan(tensor, filler)), generator=generator)
        case kind:
            sparse = "sparse " if kind == "gaussian" else ""
            raise layer.place.error(
                f"a {sparse}filler of type {kind} isn't supported; use constant, uniform, gaussian, xavier or msra"
            )


def _fan(tensor: torch.Tensor, filler: Any) -> float:  # noqa: ANN401 -- as above
    fan_in = tensor.numel() / tensor.shape[0]
    fan_out = tensor.numel() / tensor.shape[1]
    return {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[enum_name(filler, "variance_norm")]
