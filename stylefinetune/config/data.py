"""Section `data` of the config: which pictures are read and how they are transformed."""

import dataclasses
from typing import Any

# Settings that testing shares with training unless data.test sets them.
_SHARED = ("batch_size", "image_size", "crop_size", "mean_file", "mean_value", "scale")


def require_minimum(section: str, config: object, minimum: float, *names: str) -> None:
    """Raise ValueError if one of the named settings is below `minimum`, 0 or 1."""
    for name in names:
        value = getattr(config, name)
        limit = "must not be negative" if minimum == 0 else f"must be at least {minimum:g}"
        require(value >= minimum, f"{section}.{name} is {value}; it {limit}")


def require(condition: bool, message: str) -> None:  # noqa: FBT001 -- like assert
    """Raise ValueError with `message`, one line that names the key, unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """The complete settings of one phase, training or testing; DataConfig documents the others."""

    training: bool  # crop at random; otherwise at the centre
    split: str
    batch_size: int
    image_size: tuple[int, int] | None  # (height, width) of all pictures after resizing; None does not resize
    crop_size: int
    mirror: bool
    shuffle: bool
    shuffle_window: int
    mean_file: str
    mean_value: tuple[float, ...]
    scale: float

    def __post_init__(self) -> None:
        prefix = "data" if self.training else "data.test"
        require_minimum(prefix, self, 1, "batch_size")
        require(
            min(self.image_size or (1,)) >= 1,
            f"{prefix}.image_size is {list(self.image_size or ())}; sides must be at least 1 (0 alone doesn't resize)",
        )
        largest = min(self.image_size) if self.image_size else self.crop_size
        require(
            0 <= self.crop_size <= largest,
            f"{prefix}.crop_size is {self.crop_size}; it must be between 0 and the picture's side ({largest})",
        )
        require(
            len(self.mean_value) in (0, 1, 3),
            f"{prefix}.mean_value has {len(self.mean_value)} values; give one, or three in the order B,G,R",
        )
        require(
            not (self.mean_value and self.mean_file),
            f"{prefix}.mean_file and {prefix}.mean_value are both set; keep one of them",
        )

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the network's input for pictures of this size."""
        return (self.crop_size, self.crop_size) if self.crop_size else size

    @property
    def split_flag(self) -> str:
        """The flag that chooses the split."""
        return "--data.split" if self.training else "--data.test.split"


@dataclasses.dataclass(frozen=True)
class TestDataConfig:
    """Settings for testing; unset ones are the same as in training.

    Attributes:
        split: name of the split to test on; empty disables tests.
        batch_size: pictures per test batch, over all ranks.
        image_size: see data.image_size.
        crop_size: side of the square crop at the centre.
        mirror: flip half of the pictures left to right.
        shuffle: shuffle the pictures each time the split is read.
        mean_file: see data.mean_file.
        mean_value: see data.mean_value.
        scale: see data.scale.
    """

    __test__ = False  # pytest would collect the class

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
    """Which pictures are read and how they are transformed.

    Attributes:
        shards: folder of shards, created by `python -m shards assemble`; or s3://BUCKET/DIR or gs://BUCKET/DIR, from
            which they are copied to data.stage_dir.
        split: name of the split to train on.
        batch_size: pictures per training batch, over all ranks.
        image_size: size in pixels to which all pictures are resized: a side, or [height, width]. The aspect ratio is
            not preserved. 0 does not resize; then all stored pictures must have the same size.
        crop_size: side of the square crop at a random position; 0 does not crop.
        mirror: flip half of the pictures left to right.
        shuffle: shuffle the pictures in every epoch; false keeps the order of the list, as Caffe does. By default a
            new run shuffles, and a resumed run keeps its order.
        shuffle_window: with data.shuffle, the number of shards whose pictures are mixed at a time; each shard is read
            from front to back. 0 mixes all pictures.
        mean_file: mean picture to subtract, .npy or .binaryproto, or Caffe's published imagenet_mean; the mean.npy of
            the shards if empty.
        mean_value: mean values to subtract instead of a picture: B,G,R, or one value for all channels.
        scale: factor applied after the mean is subtracted.
        workers: decoding processes per rank; 0 decodes in the training process.
        resident: keep all pictures of the run decoded in the memory of each rank's device (height * width * 3 bytes a
            picture) instead of reading them for each batch. By default, GPUs do if they have enough memory and the run
            reads the whole split.
        stage_dir: folder on each node's local disk to which the shards are copied; empty reads them in place, and
            copies those of an object store to ~/.cache/stylefinetune/staged.
        stage_bytes: bytes that a run's copies may take on each node. By default, all that is free; 80 % of it if
            shards of an object store are copied while the run reads them, which data.shuffle_window allows.
        max_corrupt: fraction of a split's pictures that may be corrupt. Corrupt pictures are skipped; if there
            are more, the run stops.
        test: settings for testing.
    """

    shards: str = "data/flickr_style"
    split: str = "train"
    batch_size: int = 50
    image_size: int | tuple[int, int] = 256
    crop_size: int = 227
    mirror: bool = True
    shuffle: bool | None = None
    shuffle_window: int = 0
    mean_file: str = ""
    mean_value: tuple[float, ...] = ()
    scale: float = 1.0
    workers: int = 2
    resident: bool | None = None
    stage_dir: str = ""
    stage_bytes: int | None = None
    max_corrupt: float = 0.01
    test: TestDataConfig = dataclasses.field(default_factory=TestDataConfig)

    def __post_init__(self) -> None:
        require(self.split != "", "data.split is empty; name the split to train on")
        require(
            self.shuffle_window == 0 or (self.shuffle_window > 0 and self.shuffle is not False),
            f"data.shuffle_window is {self.shuffle_window}; it must not be negative, and needs data.shuffle",
        )
        require_minimum("data", self, 0, "workers")
        require(
            self.stage_bytes is None or self.stage_bytes > 0,
            f"data.stage_bytes is {self.stage_bytes}; it must be above 0",
        )
        require(0 <= self.max_corrupt <= 1, f"data.max_corrupt is {self.max_corrupt:g}; it must be between 0 and 1")
        self.phase(training=True)
        self.phase(training=False)

    def phase(self, *, training: bool) -> PhaseConfig:
        """Return the complete settings of training or of testing."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in _SHARED}
        if training:
            names = ("split", "mirror", "shuffle", "shuffle_window")
            own: dict[str, Any] = {name: getattr(self, name) for name in names}
            own["shuffle"] = self.shuffle is not False
        else:
            given = {name: getattr(self.test, name) for name in _SHARED}
            if given["mean_file"] is not None or given["mean_value"] is not None:
                shared |= {"mean_file": "", "mean_value": ()}  # a mean file replaces mean values and vice versa
            shared |= {name: value for name, value in given.items() if value is not None}
            own = {name: getattr(self.test, name) for name in ("split", "mirror", "shuffle")} | {"shuffle_window": 0}
        size = shared.pop("image_size")
        image_size = (size, size) if isinstance(size, int) else size
        return PhaseConfig(training=training, image_size=image_size if any(image_size) else None, **shared, **own)
