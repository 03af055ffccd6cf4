"""The knobs of how pictures reach the network, in training and in testing."""

import dataclasses
from typing import Any

# What testing takes over from training unless it has its own.
_SHARED = ("batch_size", "image_size", "crop_size", "mean_file", "mean_value", "scale")


def require(holds: bool, message: str) -> None:  # noqa: FBT001 -- reads as a sentence at its calls
    """Raises ValueError with `message`, one line that names the key, unless `holds`."""
    if not holds:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """How pictures reach the network in one phase, training or testing; everything is given.

    Attributes:
        training: cut at random; otherwise from the centre.
        split: name of the split; empty where there is none.
        batch_size: pictures of a batch, of all ranks together.
        image_size: (height, width) that every picture is resized to; None leaves them as stored.
        crop_size: side of the square cut out; 0 takes the picture whole.
        mirror: flip half of the pictures left to right.
        shuffle: draw a new order for every epoch instead of the list's own.
        shuffle_window: shards whose pictures are mixed at a time; 0 mixes all.
        mean_file: picture to subtract; when empty, DIR/mean.npy.
        mean_value: levels to subtract instead, in the order B,G,R or one for all.
        scale: factor of what is left.
    """

    training: bool
    split: str
    batch_size: int
    image_size: tuple[int, int] | None
    crop_size: int
    mirror: bool
    shuffle: bool
    shuffle_window: int
    mean_file: str
    mean_value: tuple[float, ...]
    scale: float

    def __post_init__(self) -> None:
        prefix = "data" if self.training else "data.test"
        require(self.batch_size >= 1, f"{prefix}.batch_size is {self.batch_size}; it must be at least 1")
        require(
            min(self.image_size or (1,)) >= 1,
            f"{prefix}.image_size is {list(self.image_size or ())}; a side must be at least 1 (0 alone: as stored)",
        )
        largest = min(self.image_size) if self.image_size else self.crop_size
        require(
            0 <= self.crop_size <= largest,
            f"{prefix}.crop_size is {self.crop_size}; it must lie between 0 and the picture's side ({largest})",
        )
        require(
            len(self.mean_value) in (0, 1, 3),
            f"{prefix}.mean_value has {len(self.mean_value)} values; give one, or three in the order B,G,R",
        )
        require(
            not (self.mean_value and self.mean_file),
            f"{prefix}.mean_file and {prefix}.mean_value are both set; keep one of them",
        )


@dataclasses.dataclass(frozen=True)
class TestDataConfig:
    """How testing differs from training: what isn't given is as in training, but pictures aren't mirrored or shuffled.

    Attributes:
        split: name of the split to test on; empty never tests.
        batch_size: pictures of a testing batch, of all ranks together.
        image_size: as data.image_size.
        crop_size: side of the square cut from the centre.
        mirror: flip half of the pictures left to right.
        shuffle: draw a new order for every round through the split.
        mean_file: as data.mean_file.
        mean_value: as data.mean_value.
        scale: as data.scale.
    """

    __test__ = False  # not a test of pytest's

    split: str = "test"
    batch_size: int | None = None
    image_size: int | tuple[int, int] | None = None
    crop_size: int | None = None
    mirror: bool = False
    shuffle: bool = False
    mean_file: str | None = None
    mean_value: tuple[float, ...] | None = None
    scale: float | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which pictures a run sees, and how.

    Attributes:
        shards: DIR made by `python -m shards assemble`.
        split: name of the split to train on.
        batch_size: pictures of a training batch, of all ranks together.
        image_size: pixels that every picture is resized to: a side, or [height, width]; the aspect ratio isn't kept. 0
            leaves pictures as they are stored, which must then be of one size.
        crop_size: side of the square cut out at random; 0 takes the picture whole.
        mirror: flip half of the pictures left to right.
        shuffle: draw a new order for every epoch instead of the list's own.
        shuffle_window: shards whose pictures a shuffle mixes at a time, reading each from front to back; 0 mixes all.
        mean_file: picture to subtract, .npy or .binaryproto, or Caffe's published imagenet_mean; when empty,
            DIR/mean.npy.
        mean_value: subtract these levels, in the order B,G,R or one for all, instead of a picture.
        scale: factor of what is left.
        workers: decoding processes of each rank; 0 decodes in the training process.
        stage_dir: folder on each node's own disk where the shards are copied and read; empty reads them in place.
        max_corrupt: share of a split's pictures that may be corrupt, and so are left out, before the run stops.
        test: how testing differs.
    """

    shards: str = "data/flickr_style"
    split: str = "train"
    batch_size: int = 50
    image_size: int | tuple[int, int] = 256
    crop_size: int = 227
    mirror: bool = True
    shuffle: bool = False
    shuffle_window: int = 0
    mean_file: str = ""
    mean_value: tuple[float, ...] = ()
    scale: float = 1.0
    workers: int = 2
    stage_dir: str = ""
    max_corrupt: float = 0.01
    test: TestDataConfig = dataclasses.field(default_factory=TestDataConfig)

    def __post_init__(self) -> None:
        require(self.split != "", "data.split is empty; name the split to train on")
        require(
            self.shuffle_window == 0 or (self.shuffle_window > 0 and self.shuffle),
            f"data.shuffle_window is {self.shuffle_window}; it must not be negative, and needs data.shuffle",
        )
        require(self.workers >= 0, f"data.workers is {self.workers}; it must not be negative")
        require(0 <= self.max_corrupt <= 1, f"data.max_corrupt is {self.max_corrupt:g}; it must lie between 0 and 1")
        self.phase(training=True)
        self.phase(training=False)

    def phase(self, *, training: bool) -> PhaseConfig:
        """Returns what holds in training or in testing, nothing left open."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in _SHARED}
        if training:
            names = ("split", "mirror", "shuffle", "shuffle_window")
            own: dict[str, Any] = {name: getattr(self, name) for name in names}
        else:
            given = {name: getattr(self.test, name) for name in _SHARED}
            if given["mean_file"] is not None or given["mean_value"] is not None:
                shared |= {"mean_file": "", "mean_value": ()}  # a mean of one kind replaces one of the other
            shared |= {name: value for name, value in given.items() if value is not None}
            own = {name: getattr(self.test, name) for name in ("split", "mirror", "shuffle")} | {"shuffle_window": 0}
        size = shared.pop("image_size")
        image_size = (size, size) if isinstance(size, int) else size
        return PhaseConfig(training=training, image_size=image_size if any(image_size) else None, **shared, **own)
