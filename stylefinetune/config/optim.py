"""Section `optim` of the config: the optimizer, the learning rate and the multipliers of each layer."""

import dataclasses
from typing import Any, Literal, TypeAlias

from stylefinetune.config.data import require, require_minimum

CAFFE_SGD = "caffe_sgd"
CaffePolicy: TypeAlias = Literal["fixed", "step", "multistep", "exp", "inv", "poly", "sigmoid"]
OptimizerName: TypeAlias = Literal["caffe_sgd", "sgd", "adamw", "rmsprop"]
# Settings that some optimizers have.
_ONLY = {
    "lars_trust": ("caffe_sgd",),
    "momentum": ("caffe_sgd", "sgd", "rmsprop"),
    "nesterov": ("sgd",),
    "betas": ("adamw",),
    "eps": ("adamw", "rmsprop"),
}


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """Multipliers of the learning rate and the weight decay for some layers.

    Attributes:
        match: glob over layer names, for example fc8_*; the first rule that matches a layer applies.
        lr_mult: learning rate multiplier of the weights; 0 freezes them.
        decay_mult: weight decay multiplier of the weights.
        bias_lr_mult: learning rate multiplier of the biases; by default lr_mult, but twice that in CaffeNet with
            optim.optimizer caffe_sgd.
        bias_decay_mult: weight decay multiplier of the biases.
        freeze_until: iteration with which the training of the layer begins; it is frozen before.
    """

    match: str
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    bias_lr_mult: float | None = None
    bias_decay_mult: float = 0.0
    freeze_until: int = 0

    def __post_init__(self) -> None:
        require_minimum("optim.layers", self, 0, "freeze_until")
        for name in ("lr_mult", "decay_mult", "bias_decay_mult"):
            require(getattr(self, name) is not None, f"optim.layers.{name} has no value; give one, or remove the key")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and the learning rate policies.

    Attributes:
        optimizer: caffe_sgd is Caffe's SGD, in which a drop of the learning rate does not affect past gradients; the
            others are those of torch.optim.
        base_lr: learning rate at iteration 0.
        lr_policy: schedule of the learning rate: Caffe's fixed, step, multistep, exp, inv, poly or sigmoid, or linear,
            cosine or one_cycle, which end near 0 in the last iteration.
        gamma: factor of each drop (step, multistep, exp), or slope (inv, sigmoid).
        stepsize: iterations between drops (step), or iteration of the midpoint (sigmoid).
        stepvalue: iterations of the drops (multistep), ascending.
        power: exponent of inv and poly.
        warmup_iter: number of iterations over which the rate rises linearly to the policy's; 0 disables the warm-up.
        momentum: fraction of the previous update that is added to the next (caffe_sgd, sgd, rmsprop).
        nesterov: use Nesterov's momentum (sgd).
        betas: decay of the averages of the gradient and of its square (adamw).
        eps: is added to the denominator of an update (adamw, rmsprop).
        weight_decay: L2 penalty, which is added to the gradient; with adamw, what is subtracted from the weights, times
            the learning rate. Multiplied by a layer's decay_mult.
        clip_gradients: upper limit of the L2 norm of all gradients, summed over iter_size batches; -1 disables it.
        lars_trust: trust coefficient of LARS, which scales the rate of each tensor (caffe_sgd; formula in
            docs/engines.md); 0 disables LARS.
        layers: rules per layer; the first one that matches a layer applies. Layers without a rule have lr_mult 1 and
            decay_mult 1; their biases lr_mult 1 (2 in CaffeNet with caffe_sgd) and decay_mult 0. The default rule
            applies to the classifier layer, whatever its name, with caffe_sgd only.
        layer_decay: factor of the learning rate from one block of the network to the block before it, beginning with 1
            for the classifier; 1 disables it.
        decay_norms: apply weight decay to the weights of normalizations, and biases that a rule gives any; false
            exempts all parameters of one dimension.
    """

    optimizer: OptimizerName = CAFFE_SGD
    base_lr: float = 0.001
    lr_policy: Literal[CaffePolicy, "linear", "cosine", "one_cycle"] = "step"
    gamma: float = 0.1
    stepsize: int = 20000
    stepvalue: tuple[int, ...] = ()
    power: float = 1.0
    warmup_iter: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0005
    clip_gradients: float = -1.0
    lars_trust: float = 0.0
    layers: tuple[LayerRule, ...] = (LayerRule(match="fc8_*", lr_mult=10.0),)
    layer_decay: float = 1.0
    decay_norms: bool = True

    def __post_init__(self) -> None:
        require_minimum("optim", self, 0, "base_lr", "warmup_iter", "lars_trust", "weight_decay", "eps")
        require_minimum("optim", self, 1 if self.lr_policy == "step" else 0, "stepsize")
        require(0 < self.layer_decay <= 1, f"optim.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        require(0 <= self.momentum < 1, f"optim.momentum is {self.momentum}; it must be in [0, 1)")
        require(
            all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas is {list(self.betas)}; both must be in [0, 1)",
        )
        require(not self.nesterov or self.momentum > 0, "optim.nesterov needs a momentum; set optim.momentum above 0")
        require(
            list(self.stepvalue) == sorted(self.stepvalue),
            f"optim.stepvalue is {list(self.stepvalue)}; the iterations must be ascending",
        )
        require(
            self.lr_policy != "multistep" or len(self.stepvalue) > 0,
            "optim.lr_policy is multistep but optim.stepvalue is empty; list the iterations of the drops",
        )
        require(
            self.lr_policy != "inv" or self.gamma >= 0,
            f"optim.gamma is {self.gamma}; with optim.lr_policy inv it must not be negative",
        )
        self._check_settings_of_optimizers()

    def _check_settings_of_optimizers(self) -> None:
        """Check that a setting which the optimizer doesn't have is not changed."""
        defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(self)}
        for name, optimizers in _ONLY.items():
            require(
                self.optimizer in optimizers or getattr(self, name) == defaults[name],
                f"optim.{name} is a setting of {', '.join(optimizers)}, and optim.optimizer is {self.optimizer}; "
                "remove it",
            )
