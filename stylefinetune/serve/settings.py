"""What the server accepts, how it groups pictures into batches, and what it says about its network."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits for requests, and the size of batches."""

    top: int = 5  # classes of a picture, if the request names no number
    max_bytes: int = 32 * 2**20  # of a picture
    max_pixels: int = 50_000_000  # of a picture
    timeout: float = 30.0  # seconds in which a picture must be received or fetched
    rate: float = 50.0  # POST requests, and wrong tokens, a second of one client; 0 for any number
    queue: int = 256  # pictures that are decoded or wait for the network; further ones get status 503
    max_batch: int = 32  # pictures that the network classifies together
    max_wait: float = 2.0  # milliseconds for which a picture waits for others
    workers: int = 1  # threads that decode
    url_fetch: bool = True
    allow_private: bool = False  # whether pictures are also fetched from private addresses

    @property
    def memory(self) -> int:
        """Bytes that the bodies of all requests may take together."""
        return 16 * self.max_bytes


@dataclasses.dataclass(frozen=True)
class Model:
    """What the page and /api/model say about the network."""

    name: str  # of the run
    facts: dict[str, Any]
    evaluate_command: str  # writes the predictions of the test set
