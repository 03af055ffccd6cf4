"""All settings of a run, typed; the defaults are Caffe's Flickr Style recipe, except data.shuffle.

Names are Caffe's if Caffe has the setting, otherwise PyTorch's.
"""

import dataclasses
import re
from typing import Literal, TypeAlias

from stylefinetune.config.data import DataConfig, require, require_minimum
from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.config.optim import OptimConfig
from stylefinetune.config.train import TrainConfig

Widths: TypeAlias = tuple[int, int, int, int, int, int, int]
CAFFENET = "caffenet"
CAFFE_GRAPH = "caffe"  # any other net of Caffe layers
CAFFENET_DROPOUT = 0.5
MAX_LAYER_NAME = 200  # characters
EachLayer: TypeAlias = tuple[float, float, float, float, float, float, float, float]
BatchNormMode: TypeAlias = Literal["eval", "train", "sync"]
_CAFFENET_ONLY = ("last_layer", "widths", "weight_filler_std", "bias_filler_value")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: CaffeNet with any widths, another net of Caffe layers, or a network of torchvision or timm.

    Attributes:
        arch: the network: caffenet, or one of torchvision's classification networks, for example resnet50, or timm/NAME
            for one of timm's (pip install 'stylefinetune[timm]'); or caffe, with model.prototxt.
        display_name: name of the network in the log and in exported files; empty for `arch`.
        last_layer: name of CaffeNet's classifier layer. If the weights file has no layer of this name, it starts from
            random weights.
        widths: output channels of CaffeNet's conv1, conv2, conv3, conv4, conv5, fc6, fc7.
        weight_filler_std: standard deviation of the initial weights of the layers of widths and the last one.
        bias_filler_value: initial value of the biases of the same layers.
        prototxt: the text of a Caffe net, for arch caffe; --solver sets it from the solver's nets.
        dropout: fraction of the inputs of each dropout layer that is dropped in training; by default the network's own,
            0.5 for CaffeNet.
        drop_path: probability with which the deepest residual block is skipped in training (stochastic depth); lower
            blocks have proportionally lower ones. By default the network's own.
        batch_norm: statistics of batch normalization in training: eval uses the running statistics and does not change
            them, train uses those of each rank's part of the batch, sync those of the whole batch (GPUs only). By
            default eval if the run starts from pretrained weights, otherwise train; a resumed run keeps its choice.
    """

    arch: str = CAFFENET
    display_name: str = ""
    last_layer: str = "fc8_flickr"
    widths: Widths = (96, 256, 384, 384, 256, 4096, 4096)
    weight_filler_std: EachLayer = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    bias_filler_value: EachLayer = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    prototxt: str = ""
    dropout: float | None = None
    drop_path: float | None = None
    batch_norm: BatchNormMode | None = None

    def __post_init__(self) -> None:
        require(self.arch != "", "model.arch is empty; name a network, for example caffenet or resnet50")
        self._check_caffenet()
        is_graph = self.arch == CAFFE_GRAPH
        require(
            is_graph == bool(self.prototxt),
            "model.arch caffe and model.prototxt need each other; --solver sets both from a solver's nets",
        )
        for name in ("dropout", "drop_path"):
            rate = getattr(self, name)
            require(rate is None or 0 <= rate < 1, f"model.{name} is {rate}; it must be in [0, 1)")
            require(rate is None or not is_graph, f"model.{name} is set, but model.prototxt says it; remove it")

    def _check_caffenet(self) -> None:
        """Check the settings that only CaffeNet has."""
        require(min(self.widths) >= 1, f"model.widths is {list(self.widths)}; every width must be at least 1")
        require(
            all(width % 2 == 0 for width in self.widths[:5]),
            f"model.widths is {list(self.widths)}; the first five must be even, for grouped convolutions",
        )
        require(
            min(self.weight_filler_std) >= 0,
            f"model.weight_filler_std is {list(self.weight_filler_std)}; a standard deviation can't be negative",
        )
        require(
            0 < len(self.last_layer) <= MAX_LAYER_NAME and self.last_layer.isprintable(),
            f"model.last_layer is {self.last_layer!r}; it must have 1 to {MAX_LAYER_NAME} printable characters",
        )
        if self.arch == CAFFENET:
            return
        for field in dataclasses.fields(self):
            if field.name in _CAFFENET_ONLY:
                require(
                    getattr(self, field.name) == field.default,
                    f"model.{field.name} is a setting of caffenet, and model.arch is {self.arch}; remove it",
                )

    @property
    def title(self) -> str:
        """The name of the network in the log and in exported files."""
        return self.display_name or self.arch


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved and which are kept.

    Attributes:
        snapshot: iterations between checkpoints; 0 saves only at the end, and when the run is stopped.
        keep_last: number of newest checkpoints to keep; 0 keeps all.
        keep_best: also keep the best tested checkpoint; no effect if keep_last is 0.
        best_metric: what the best checkpoint, RUN/best, has in the tests: the highest accuracy, the highest mean
            average precision (map), or the lowest loss.
        keep_every: also keep each checkpoint whose iteration is a multiple of this; 0 disables it. No effect if
            keep_last is 0.
        allow_other_index: resume even if the index of the shards has changed; this changes the order of the pictures.
    """

    snapshot: int = 10000
    keep_last: int = 0
    keep_best: bool = True
    best_metric: Literal["accuracy", "map", "loss"] = "accuracy"
    keep_every: int = 0
    allow_other_index: bool = False

    def __post_init__(self) -> None:
        require_minimum("checkpoint", self, 0, "snapshot", "keep_last", "keep_every")


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Logging to Weights & Biases and TensorBoard, besides train.log and metrics.jsonl.

    Attributes:
        wandb: auto (online if there is an API key, otherwise offline), offline or disabled.
        project: W&B project; by default WANDB_PROJECT, or stylefinetune.
        name: W&B run name; by default WANDB_NAME, or the name of the run folder.
        artifacts: which checkpoints W&B gets as artifacts, with the index of the shards as the run's input: none; last,
            the last and the best one at the end of the run; or all.
        tensorboard: also write RUN/tensorboard, with the same names; needs the extra stylefinetune[tensorboard].
        layer_norms: at each displayed iteration, log the norm of the gradient, and for each layer that of its gradient
            and the ratio of its update to its weights.
    """

    wandb: Literal["auto", "offline", "disabled"] = "auto"
    project: str | None = None
    name: str | None = None
    artifacts: Literal["none", "last", "all"] = "none"
    tensorboard: bool = False
    layer_norms: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run.

    Attributes:
        run_dir: folder of the run's log, metrics and checkpoints.
        solver: Caffe solver.prototxt; its values and its net's override the defaults and --config.
        weights: initial weights, copied by layer name: a .caffemodel, .safetensors, .pth or checkpoint; or published
            weights of model.arch, such as DEFAULT or IMAGENET1K_V2, which are downloaded; or the published
            bvlc_reference_caffenet (download it with `stylefinetune weights`). Separate several with commas.
        resume: auto resumes from the newest checkpoint in run_dir, or starts a new run if there is none; none starts a
            new run; a path resumes from that checkpoint or Caffe .solverstate. If the path is of another run and this
            run has checkpoints, it resumes from its own.
        profile: iterations that PyTorch's profiler records, as START:STOP. RUN/profile gets a trace and a table.
        engine: torch trains in one process or with DistributedDataParallel, deepspeed with ZeRO. Both read and write
            the same checkpoints.
        data: which pictures are read and how they are transformed.
        model: the network.
        optim: the optimizer and the learning rate.
        train: length of the run, tests, logging and numerics.
        checkpoint: when checkpoints are saved and which are kept.
        tracking: logging to Weights & Biases and TensorBoard.
        deepspeed: settings of --engine deepspeed.
    """

    run_dir: str = "runs/flickr_style"
    solver: str | None = None
    weights: str | None = None
    resume: str = "auto"
    profile: str | None = None
    engine: Literal["torch", "deepspeed"] = "torch"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    deepspeed: DeepSpeedConfig = dataclasses.field(default_factory=DeepSpeedConfig)

    def __post_init__(self) -> None:
        require(
            self.train.patience == 0 or self.data.test.split != "",
            f"train.patience is {self.train.patience}, but data.test.split is empty, so that there are no tests",
        )
        require(
            self.profile is None or len(self.profiled) > 0,
            f"profile is {self.profile}; give the first iteration and the one after the last, such as 100:110",
        )

    @property
    def pictures_per_iteration(self) -> int:
        """The pictures of which an update has the gradients, those of all ranks and of all micro-batches."""
        return self.data.batch_size * self.train.iter_size

    @property
    def profiled(self) -> range:
        """The iterations to profile."""
        found = re.fullmatch(r"(\d+):(\d+)", self.profile or "")
        return range(int(found[1]), int(found[2])) if found else range(0)
