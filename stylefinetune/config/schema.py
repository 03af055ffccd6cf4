"""Every knob of a run, typed; the defaults are Caffe's Flickr Style recipe.

Names are Caffe's where Caffe has the idea, PyTorch's elsewhere.
"""

import dataclasses
import re
from typing import Literal, TypeAlias

from stylefinetune.config.data import DataConfig, require
from stylefinetune.config.deepspeed import DeepSpeedConfig

Widths: TypeAlias = tuple[int, int, int, int, int, int, int]
EachLayer: TypeAlias = tuple[float, float, float, float, float, float, float, float]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: CaffeNet, at any width.

    Attributes:
        name: what the log calls the network.
        last_layer: name of the classifying layer; a name that the weights file lacks starts it afresh.
        widths: outputs of conv1, conv2, conv3, conv4, conv5, fc6, fc7.
        weight_filler_std: of the gaussian that fills the weights of these seven and the last layer.
        bias_filler_value: constant that fills their biases.
        dropout: share of fc6's and fc7's outputs dropped in training.
    """

    name: str = "FlickrStyleCaffeNet"
    last_layer: str = "fc8_flickr"
    widths: Widths = (96, 256, 384, 384, 256, 4096, 4096)
    weight_filler_std: EachLayer = (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01)
    bias_filler_value: EachLayer = (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require(min(self.widths) >= 1, f"model.widths is {list(self.widths)}; every width must be at least 1")
        require(
            all(width % 2 == 0 for width in self.widths[:5]),
            f"model.widths is {list(self.widths)}; the first five must be even, for grouped convolutions",
        )
        require(
            min(self.weight_filler_std) >= 0,
            f"model.weight_filler_std is {list(self.weight_filler_std)}; a standard deviation can't be negative",
        )
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}; it must lie in [0, 1)")
        require(
            re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.last_layer) is not None,
            f"model.last_layer is {self.last_layer!r}; use letters, digits and underscores",
        )


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What a layer's parameters multiply the run's rate and decay by.

    Attributes:
        match: glob over layer names, such as fc8_*; the first rule that matches a layer holds for it.
        lr_mult: of the layer's weights; 0 freezes the layer.
        decay_mult: of the layer's weights.
        bias_lr_mult: of its biases; twice lr_mult unless given, as CaffeNet has it.
        bias_decay_mult: of its biases.
    """

    match: str
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    bias_lr_mult: float | None = None
    bias_decay_mult: float = 0.0


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Caffe's SGD and its learning-rate policies.

    Attributes:
        base_lr: learning rate at iteration 0.
        lr_policy: how it changes: fixed, step, multistep, exp, inv, poly or sigmoid.
        gamma: factor of a drop (step, multistep, exp) or slope (inv, sigmoid).
        stepsize: iterations between drops (step), or the middle of the slope (sigmoid).
        stepvalue: iterations of the drops (multistep), ascending.
        power: exponent of inv and poly.
        warmup_iter: iterations that the rate climbs for, in equal steps, to what the policy says; 0 doesn't warm up.
        momentum: share of the last update that is kept.
        weight_decay: L2 penalty, times a layer's decay_mult.
        clip_gradients: largest L2 norm of all gradients together, summed over iter_size batches; -1 doesn't clip.
        lars_trust: LARS's trust coefficient, which gives each tensor a rate of its own (optimizer.CaffeSGD has the
            formula); 0 is Caffe's rule alone.
        layers: rules per layer, in order; layers that no rule matches have 1, 1 for weights and 2, 0 for biases.
    """

    base_lr: float = 0.001
    lr_policy: Literal["fixed", "step", "multistep", "exp", "inv", "poly", "sigmoid"] = "step"
    gamma: float = 0.1
    stepsize: int = 20000
    stepvalue: tuple[int, ...] = ()
    power: float = 1.0
    warmup_iter: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0005
    clip_gradients: float = -1.0
    lars_trust: float = 0.0
    layers: tuple[LayerRule, ...] = (LayerRule(match="fc8_*", lr_mult=10.0),)

    def __post_init__(self) -> None:
        require(self.base_lr >= 0, f"optim.base_lr is {self.base_lr}; it must not be negative")
        require(self.stepsize >= 1, f"optim.stepsize is {self.stepsize}; it must be at least 1")
        require(self.warmup_iter >= 0, f"optim.warmup_iter is {self.warmup_iter}; it must not be negative")
        require(self.lars_trust >= 0, f"optim.lars_trust is {self.lars_trust}; it must not be negative")
        require(0 <= self.momentum < 1, f"optim.momentum is {self.momentum}; it must lie in [0, 1)")
        require(self.weight_decay >= 0, f"optim.weight_decay is {self.weight_decay}; it must not be negative")
        require(
            list(self.stepvalue) == sorted(self.stepvalue),
            f"optim.stepvalue is {list(self.stepvalue)}; the iterations must ascend",
        )
        require(
            self.lr_policy != "multistep" or len(self.stepvalue) > 0,
            "optim.lr_policy is multistep but optim.stepvalue is empty; list the iterations of the drops",
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long a run lasts and what it tells on the way.

    Attributes:
        max_iter: iterations, each one update of the weights.
        iter_size: batches whose gradients are summed for one update.
        test_interval: iterations between tests; 0 tests at the end alone.
        test_iter: batches of a test, taken up where the last test ended; 0 tests every picture once.
        test_initialization: test before the first update as well.
        display: iterations between displayed losses; 0 shows none.
        average_loss: displayed loss is the mean of this many last ones.
        seed: of fillers, dropout, crops, mirrors and shuffles.
        precision: of products and convolutions, in training and in its tests; the loss and all that is kept, and so a
            checkpoint, are fp32. With fp16 the loss is scaled for the backward pass, and an update whose gradients
            aren't finite is left out.
        channels_last: lay pictures and what the layers make of them out channel by channel at each pixel (NHWC).
        compile: train with the network as torch.compile makes it; with --engine torch only.
        deterministic: on GPUs, use deterministic algorithms, so that equal runs are equal to the bit.
        stop_on_nonfinite: stop when the loss is NaN or infinite; otherwise go on, saving nothing that isn't finite.
        stall_seconds: how long one rank may hold up the others before the run ends and names it.
    """

    max_iter: int = 100000
    iter_size: int = 1
    test_interval: int = 1000
    test_iter: int = 0
    test_initialization: bool = True
    display: int = 20
    average_loss: int = 1
    seed: int = 1701
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    stop_on_nonfinite: bool = True
    stall_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_iter", "iter_size", "average_loss"):
            require(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("test_interval", "test_iter", "display", "seed"):
            require(getattr(self, name) >= 0, f"train.{name} is {getattr(self, name)}; it must not be negative")
        require(self.stall_seconds > 0, f"train.stall_seconds is {self.stall_seconds:g}; it must be above 0")
        require(self.seed < 2**63, f"train.seed is {self.seed}; it must be below 2**63")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved.

    Attributes:
        snapshot: iterations between checkpoints; 0 saves at the end alone, and when the run is stopped.
        keep_last: how many of the newest are kept; 0 keeps all.
        keep_best: keep the one with the best test accuracy too, of those that were tested.
        keep_every: keep each whose iteration is a multiple of this too; 0 keeps none for that.
        allow_other_index: resume although the shards' index has changed; the order of the pictures then changes too.
    """

    snapshot: int = 10000
    keep_last: int = 0
    keep_best: bool = True
    keep_every: int = 0
    allow_other_index: bool = False

    def __post_init__(self) -> None:
        for name in ("snapshot", "keep_last", "keep_every"):
            require(getattr(self, name) >= 0, f"checkpoint.{name} is {getattr(self, name)}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class TrackingConfig:
    """Where a run is shown beside its own log and metrics.jsonl.

    Attributes:
        wandb: Weights & Biases: auto (online with a key, else offline), offline, or disabled.
        project: W&B project.
        name: W&B run name; the run folder's unless given.
    """

    wandb: Literal["auto", "offline", "disabled"] = "auto"
    project: str = "stylefinetune"
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
        run_dir: folder of the run's log, metrics and checkpoints.
        solver: a Caffe solver.prototxt whose values, and whose net's, stand in for the defaults and for --config.
        weights: .caffemodel, .safetensors or checkpoint to start from, copied by layer name, or the name of published
            weights, bvlc_reference_caffenet (python -m stylefinetune.weights fetches them); a comma between several.
        resume: auto goes on from the newest checkpoint of run_dir if there is one; none starts afresh; or the path of a
            checkpoint, or of a Caffe run's .solverstate.
        engine: torch trains in one process or with DistributedDataParallel, deepspeed with ZeRO; their checkpoints are
            the same, so that a run may go on with the other.
        data: which pictures, and how.
        model: the network.
        optim: the solver.
        train: how long, and what is told.
        checkpoint: when to save.
        tracking: where to show.
        deepspeed: what --engine deepspeed divides among the ranks.
    """

    run_dir: str = "runs/flickr_style"
    solver: str | None = None
    weights: str | None = None
    resume: str = "auto"
    engine: Literal["torch", "deepspeed"] = "torch"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)
    deepspeed: DeepSpeedConfig = dataclasses.field(default_factory=DeepSpeedConfig)
