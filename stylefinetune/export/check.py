"""Compares the logits of an exported network with those of its checkpoint."""

import dataclasses

import torch

from shards.format import counted
from stylefinetune.errors import EXIT_CRASH, UserError
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.export.pictures import Pictures

TOLERANCE = 1e-4  # largest difference of a logit, as a fraction of the largest logit


class DifferentLogitsError(UserError):
    """An exported network doesn't compute what the checkpoint's does."""

    code = EXIT_CRASH
    reason = "export"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Logits that agree."""

    pictures: int
    difference: float  # largest, of a logit
    largest: float  # logit

    def __str__(self) -> str:
        count = counted(self.pictures, "picture")
        return f"checked with {count}: logits differ by at most {self.difference:.2g}, and are up to {self.largest:.3g}"


def compare_logits(expected: torch.Tensor, found: torch.Tensor) -> Comparison:
    """Compare logits [B, classes].

    Raises:
        DifferentLogitsError: they differ by more than TOLERANCE, or aren't finite.
    """
    if found.shape != expected.shape:
        raise DifferentLogitsError(
            f"the exported network has outputs of {list(found.shape)} instead of {list(expected.shape)}; nothing is "
            "written"
        )
    largest, difference = float(expected.abs().max()), float((found - expected).abs().max())
    limit = TOLERANCE * largest
    if not difference <= limit:
        raise DifferentLogitsError(
            f"the exported network's logits differ from the checkpoint's by {difference:.3g}, and the limit is "
            f"{limit:.3g}; nothing is written"
        )
    return Comparison(len(expected), difference, largest)


@torch.no_grad()
def expected_logits(network: TrainedNetwork, pictures: Pictures) -> torch.Tensor:
    """Return the logits that `predict` and `evaluate` compute, [B, classes]."""
    return network.net(network.transform(pictures.pixels, pictures.crops)).float()
