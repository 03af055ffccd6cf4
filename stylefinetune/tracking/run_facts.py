"""What the dashboards show of a run besides its settings."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """The data, the network and the world of a run."""

    train_pictures: int
    test_pictures: int
    classes: tuple[str, ...]  # names in label order
    parameters: int  # numbers in the network's weights
    trained_parameters: int  # those in layers that are not frozen
    ranks: int
    device: str  # of rank 0, such as cpu or NVIDIA H100 80GB HBM3
    index: str  # fingerprint of the shards' index
    outcomes: dict[str, int]  # status -> number of URLs of the list; empty if the shards have no outcomes.parquet
    flops: int | None  # floating-point operations of training on one picture, see models.flops; None if unknown
    peak_flops: float | None  # operations a second of all ranks together at their peak; None if unknown

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as values of JSON, with the fraction of the URLs whose pictures could be had."""
        facts = dataclasses.asdict(self) | {"classes": list(self.classes)}
        if self.outcomes:
            facts["kept_urls"] = self.outcomes.get("kept", 0) / sum(self.outcomes.values())
        return facts
