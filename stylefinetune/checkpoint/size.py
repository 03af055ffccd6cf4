"""Computes the size of a checkpoint before one is written."""

from torch import nn

from stylefinetune.config.schema import Config
from stylefinetune.models.state import stored_tensors
from stylefinetune.optim.optimizers import new_state, slots_of


def checkpoint_bytes(net: nn.Module, config: Config) -> int:
    """Return the bytes of the tensors in a checkpoint: the weights, their average, and the optimizer's state."""
    weights = sum(tensor.nbytes for tensor in stored_tensors(net).values())
    slots = slots_of(config.optim)
    trained = [parameter.detach().to("meta") for parameter in net.parameters() if parameter.requires_grad]
    state = sum(slot.nbytes for parameter in trained for slot in new_state(parameter, slots).values())
    return weights * (2 if config.train.ema_decay else 1) + state
