"""Section `data` of the config: which pictures are read and how they are transformed."""

import dataclasses
from typing import Any

from stylefinetune.config.preprocessing import CAFFE, AugmentConfig, Channels, Interpolation, Resize

# Settings that testing shares with training unless data.test sets them.
_SHARED = ("batch_size", "image_size", "crop_size", "mean_file", "mean_value", "scale")
_SAME = ("resize", "interpolation", "channels", "std_value", "augment")  # settings that testing always shares
_DARKEST_STD = 0.99  # lower ones are meant for values from 0 to 1; 1 is published for values from 0 to 255


def require_minimum(section: str, config: object, minimum: float, *names: str) -> None:
    """Raise ValueError if one of the named settings is below `minimum`, 0 or 1."""
    for name in names:
        value = getattr(config, name)
        require(value is not None, f"{section}.{name} has no value; give one, or remove the key")
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
    balanced: bool
    mean_file: str
    mean_value: tuple[float, ...]
    scale: float
    resize: Resize
    interpolation: Interpolation
    channels: Channels
    std_value: tuple[float, ...]
    augment: AugmentConfig  # has no effect in testing

    def __post_init__(self) -> None:
        prefix = "data" if self.training else "data.test"
        require_minimum(prefix, self, 1, "batch_size")
        require(
            min(self.image_size or (1,)) >= 1,
            f"{prefix}.image_size is {list(self.image_size or ())}; sides must be at least 1 (0 alone doesn't resize)",
        )
        self._check_resize(prefix)
        self._check_augment()
        largest = min(self.image_size) if self.image_size else self.crop_size
        require(
            0 <= self.crop_size <= largest,
            f"{prefix}.crop_size is {self.crop_size}; it must be between 0 and the picture's side ({largest})",
        )
        require(
            len(self.mean_value) in (0, 1, 3),
            f"{prefix}.mean_value has {len(self.mean_value)} values; give one, or three in the order {self.order}",
        )
        require(
            not (self.mean_value and self.mean_file),
            f"{prefix}.mean_file and {prefix}.mean_value are both set; keep one of them",
        )
        self._check_std()

    def _check_std(self) -> None:
        std = list(self.std_value)
        require(
            len(std) in (0, 1, 3),
            f"data.std_value has {len(std)} values; give one, or three in the order {self.order}",
        )
        require(
            min(std, default=1) >= _DARKEST_STD,
            f"data.std_value is {std}; it is for values from 0 to 255, so multiply those for 0 to 1 by 255, and "
            "data.mean_value too",
        )

    def _check_resize(self, prefix: str) -> None:
        if self.resize == "warp":
            require(
                self.interpolation == "bilinear",
                f"data.interpolation is {self.interpolation}, and data.resize=warp is bilinear, as in Caffe; remove "
                "one of them",
            )
            return
        sides = list(self.image_size or (0,))
        require(
            self.image_size is not None and sides[0] == sides[-1],
            f"{prefix}.image_size is {sides if len(sides) > 1 else 0}; data.resize=shorter_side needs one length, that "
            "of the shorter side; or set data.resize=warp",
        )
        require(
            self.crop_size > 0,
            f"{prefix}.crop_size is 0; data.resize=shorter_side needs a crop, since pictures differ in shape",
        )

    def _check_augment(self) -> None:
        if not (self.training and self.augment.is_used):
            return
        require(
            self.image_size is not None,
            "data.image_size is 0; data.augment needs the size to which pictures are resized",
        )
        require(
            self.crop_size > 0 or not self.augment.random_resized_crop,
            "data.crop_size is 0; data.augment.random_resized_crop resizes to it",
        )
        require(
            not (self.mean_file and self.augment.needs_mean_value),
            "data.mean_file is a picture, which data.augment.random_resized_crop and random_erasing can't use; set "
            "data.mean_value instead",
        )

    @property
    def order(self) -> str:
        """The order of the channels, as it is written in messages."""
        return ",".join(self.channels.upper())

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
        shards: folder of shards, created by `shards assemble`; or s3://BUCKET/DIR or gs://BUCKET/DIR, from
            which they are copied to data.stage_dir.
        split: name of the split to train on.
        batch_size: pictures per training batch, over all ranks.
        resize: warp resizes to data.image_size without keeping the aspect ratio or antialiasing, as Caffe does;
            shorter_side keeps it and antialiases, as torchvision and timm do. By default, what the weights expect: warp
            for CaffeNet and with a Caffe solver, shorter_side for other networks.
        image_size: size in pixels to which all pictures are resized: with warp a side, or [height, width]; with
            shorter_side the length of the shorter side. By default, what the weights expect: 256 for CaffeNet. 0 does
            not resize (warp only); then all stored pictures must have the same size.
        interpolation: bilinear or bicubic, with shorter_side. By default, what the weights expect.
        crop_size: side of the square crop at a random position; 0 does not crop (warp only). By default, what the
            weights expect: 227 for CaffeNet.
        channels: order of the channels of the network's input, bgr or rgb. By default, what the weights expect: bgr for
            CaffeNet, rgb for other networks.
        mirror: flip half of the pictures left to right.
        shuffle: shuffle the pictures in every epoch; false keeps the order of the list, as Caffe does. By default a
            new run shuffles, and a resumed run keeps its order.
        shuffle_window: with data.shuffle, the number of shards whose pictures are mixed at a time; each shard is read
            from front to back. 0 mixes all pictures.
        balanced: draw the pictures of all classes equally often, whatever their numbers are; an epoch keeps its length.
            It needs data.shuffle, and excludes data.shuffle_window.
        mixup: alpha of MixUp, which blends each picture and its label with another one of the batch; 0 disables it.
        cutmix: alpha of CutMix, which pastes a rectangle of another picture of the batch; 0 disables it. If both are
            set, each batch is mixed by one of them, drawn at random.
        mixup_prob: probability that a batch is mixed.
        mean_file: mean picture to subtract, .npy or .binaryproto, or Caffe's published imagenet_mean; the mean.npy of
            the shards if empty. With data.resize=warp only.
        mean_value: mean values to subtract instead of a picture, for values from 0 to 255: one for each channel in the
            order of data.channels, or one for all. By default, what the weights expect, except for CaffeNet.
        std_value: standard deviations by which the channels are divided after the mean is subtracted, in the order of
            data.channels, or one for all; for values from 0 to 255. By default, what the weights expect, or none for
            CaffeNet and where data.scale is set.
        scale: factor applied after the mean is subtracted.
        workers: decoding processes per rank; 0 decodes in the training process.
        resident: keep all pictures of the run decoded in the memory of each rank's device (height * width * 3 bytes a
            picture) instead of reading them for each batch, or a share on each if they are too many for one GPU. By
            default, GPUs keep all if they have enough memory and the run reads the whole split.
        stage_dir: folder on each node's local disk to which the shards are copied; empty reads them in place, and
            copies those of an object store to ~/.cache/stylefinetune/staged.
        stage_bytes: bytes that a run's copies may take on each node. By default, all that is free; 80 % of it if
            shards of an object store are copied while the run reads them, which data.shuffle_window allows.
        augment: how training pictures are changed at random.
        max_corrupt: fraction of a split's pictures that may be corrupt. Corrupt pictures are skipped; if there
            are more, the run stops.
        test: settings for testing.
    """

    shards: str = "data/flickr_style"
    split: str = "train"
    batch_size: int = 50
    resize: Resize | None = None
    image_size: int | tuple[int, int] | None = None
    interpolation: Interpolation | None = None
    crop_size: int | None = None
    channels: Channels | None = None
    mirror: bool = True
    shuffle: bool | None = None
    shuffle_window: int = 0
    balanced: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mean_file: str = ""
    mean_value: tuple[float, ...] = ()
    std_value: tuple[float, ...] = ()
    scale: float = 1.0
    workers: int = 2
    resident: bool | None = None
    stage_dir: str = ""
    stage_bytes: int | None = None
    max_corrupt: float = 0.01
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    test: TestDataConfig = dataclasses.field(default_factory=TestDataConfig)

    def __post_init__(self) -> None:
        require(self.split != "", "data.split is empty; name the split to train on")
        require(
            self.shuffle_window == 0 or (self.shuffle_window > 0 and self.shuffle is not False),
            f"data.shuffle_window is {self.shuffle_window}; it must not be negative, and needs data.shuffle",
        )
        require(
            not self.balanced or (self.shuffle is not False and self.shuffle_window == 0),
            "data.balanced draws the pictures at random from all shards; set data.shuffle to true and "
            "data.shuffle_window to 0, or remove it",
        )
        require_minimum("data", self, 0, "workers", "mixup", "cutmix")
        require(0 <= self.mixup_prob <= 1, f"data.mixup_prob is {self.mixup_prob:g}; it must be between 0 and 1")
        require(
            self.stage_bytes is None or self.stage_bytes > 0,
            f"data.stage_bytes is {self.stage_bytes}; it must be above 0",
        )
        require(0 <= self.max_corrupt <= 1, f"data.max_corrupt is {self.max_corrupt:g}; it must be between 0 and 1")
        self.phase(training=True)
        self.phase(training=False)

    @property
    def is_mixed(self) -> bool:
        """Whether training mixes pictures, with MixUp or CutMix."""
        return self.mixup > 0 or self.cutmix > 0

    def phase(self, *, training: bool) -> PhaseConfig:
        """Return the complete settings of training or of testing; those that are not resolved are Caffe's."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in _SHARED}
        if training:
            names = ("split", "mirror", "shuffle", "shuffle_window", "balanced")
            own: dict[str, Any] = {name: getattr(self, name) for name in names}
            own["shuffle"] = self.shuffle is not False
        else:
            given = {name: getattr(self.test, name) for name in _SHARED}
            if given["mean_file"] is not None or given["mean_value"] is not None:
                shared |= {"mean_file": "", "mean_value": ()}  # a mean file replaces mean values and vice versa
            shared |= {name: value for name, value in given.items() if value is not None}
            own = {name: getattr(self.test, name) for name in ("split", "mirror", "shuffle")}
            own |= {"shuffle_window": 0, "balanced": False}
        same = {name: getattr(self, name) for name in _SAME}
        same |= {name: getattr(CAFFE, name) for name, value in same.items() if value is None}
        if self.resize is None:  # not resolved
            same["interpolation"] = CAFFE.interpolation
        size = CAFFE.image_size if shared["image_size"] is None else shared["image_size"]
        sides = (size, size) if isinstance(size, int) else size
        shared["image_size"] = sides if any(sides) else None
        if shared["crop_size"] is None:
            shared["crop_size"] = min([CAFFE.crop_size, *filter(None, sides)])
        return PhaseConfig(training=training, **shared, **own, **same)
