"""Section `train` of the config: length of the run, the loss, tests, logging and numerics."""

import dataclasses
from typing import Literal, TypeAlias

from stylefinetune.config.data import require, require_minimum

LossFunction: TypeAlias = Literal["softmax", "bce"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length of the run, the loss, tests, logging and numerics.

    Attributes:
        max_iter: number of iterations; each updates the weights once.
        epochs: length of the run in passes over the training pictures, instead of max_iter. The run converts it to a
            number of iterations, rounded up.
        iter_size: number of batches whose gradients are accumulated for one update.
        loss: softmax is the cross-entropy of the softmax, with one probability for each class that sum to 1; bce the
            mean binary cross-entropy over the classes, each with its own probability (the sigmoid of its logit).
        label_smoothing: part of a picture's label that is spread evenly over all classes.
        class_weights: weight of each class in the softmax loss of training, in label order; or balanced, inversely
            proportional to the class's number of training pictures.
        patience: stop after this many tests in a row that are not better than the best one, by checkpoint.best_metric;
            0 never does. A test that is the best so far then also saves a checkpoint.
        test_interval: iterations between tests; 0 tests only at the end.
        test_iter: batches per test, continuing after the previous test's last picture; 0 tests every picture once.
        test_initialization: also test before the first update.
        display: iterations between logged losses; 0 logs none.
        average_loss: the logged loss is the mean of this many recent losses.
        seed: seed of initial weights, dropout, crops, mirrors and shuffles.
        precision: precision of matrix products and convolutions in training and its tests. Weights, loss and
            checkpoints are always fp32. tf32 rounds the factors to 11 significant bits, and needs a GPU. With fp16 the
            loss is scaled for the backward pass, and updates with gradients that are not finite are skipped.
        channels_last: store pictures and activations in channels-last (NHWC) memory format. By default, a new run does,
            and a resumed run keeps its format.
        ema_decay: keep an exponential moving average of the weights. Each update keeps this part of it, for example
            0.999; 0 keeps no average. It is tested beside the weights, and evaluate, predict and export use it.
        compile: compile the network with torch.compile; with --engine torch only.
        cuda_graph: launch the forward and backward pass of training as one CUDA graph; with --engine torch on GPUs
            only.
        gradient_compression: none sends the gradients between the ranks in fp32, bf16 in half the bytes; with --engine
            torch only.
        deterministic: use deterministic algorithms on GPUs, so that equal runs are bitwise equal.
        stop_on_nonfinite: stop when the loss is NaN or infinite; otherwise continue, but save no weights that are not
            finite.
        stall_seconds: seconds that one activity of a rank may take; then all ranks exit and the stalled rank is
            reported.
    """

    max_iter: int = 100000
    epochs: float | None = None
    iter_size: int = 1
    loss: LossFunction = "softmax"
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    patience: int = 0
    test_interval: int = 1000
    test_iter: int = 0
    test_initialization: bool = True
    display: int = 20
    average_loss: int = 1
    seed: int = 1701
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    channels_last: bool | None = None
    ema_decay: float = 0.0
    compile: bool = False
    cuda_graph: bool = False
    gradient_compression: Literal["none", "bf16"] = "none"
    deterministic: bool = False
    stop_on_nonfinite: bool = True
    stall_seconds: float = 600.0

    def __post_init__(self) -> None:
        require_minimum("train", self, 1, "max_iter", "iter_size", "average_loss")
        require_minimum("train", self, 0, "test_interval", "test_iter", "display", "seed", "patience")
        self._check_loss()
        require(
            self.patience == 0 or self.test_interval > 0,
            f"train.patience is {self.patience}, but train.test_interval is 0, which tests only at the end; set it",
        )
        require(self.epochs is None or self.epochs > 0, f"train.epochs is {self.epochs}; it must be above 0")
        require(self.stall_seconds > 0, f"train.stall_seconds is {self.stall_seconds:g}; it must be above 0")
        require(0 <= self.ema_decay < 1, f"train.ema_decay is {self.ema_decay}; it must be in [0, 1)")
        require(self.seed < 2**63, f"train.seed is {self.seed}; it must be below 2**63")

    def _check_loss(self) -> None:
        smoothing, weights = self.label_smoothing, self.class_weights
        require(0 <= smoothing < 1, f"train.label_smoothing is {smoothing:g}; it must be in [0, 1)")
        require(
            weights is None or self.loss == "softmax",
            "train.class_weights is for train.loss softmax; remove it, or use data.balanced",
        )
        require(
            weights is None or weights == "balanced" or (len(weights) > 0 and min(weights) >= 0 < max(weights)),
            f"train.class_weights is {list(weights or ())}; the weights must not be negative, and not all 0",
        )
