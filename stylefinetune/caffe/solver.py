"""Converts a Caffe solver.prototxt and its nets to a Config."""

from pathlib import Path
from typing import Any, get_args

from stylefinetune.caffe.layers import Net
from stylefinetune.caffe.net import NetConfig, convert_nets, read_net
from stylefinetune.caffe.prototxt import Place, check_defaults, parse_text, round_float32
from stylefinetune.config.optim import CaffePolicy, OptimConfig
from stylefinetune.config.schema import CheckpointConfig, TrainConfig

_TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")
_TEST_NETS = ("test_net", "test_net_param")
# Read below.
_READ = {
    *(*_TRAIN_NETS, *_TEST_NETS, "train_state", "test_state"),
    *("test_iter", "test_interval", "test_initialization", "base_lr", "display", "average_loss", "max_iter"),
    *("iter_size", "lr_policy", "gamma", "power", "momentum", "weight_decay", "stepsize", "stepvalue"),
    *("clip_gradients", "snapshot", "snapshot_prefix", "random_seed", "weights"),
}
# Without effect on the result: of the log, the files and the device, or of other solvers than SGD.
_WITHOUT_EFFECT = {
    *("solver_mode", "device_id", "snapshot_format", "snapshot_diff", "snapshot_after_train", "debug_info"),
    *("test_compute_loss", "layer_wise_reduce", "delta", "momentum2", "rms_decay"),
}
_POLICIES = get_args(CaffePolicy)


def read_solver(path: Path) -> dict[str, Any]:
    """Read a solver.prototxt and its nets; paths in them are relative to the working directory.

    Returns:
        The nested keys of a Config. data.shards is empty; `find_solver_lists` returns the folder.

    Raises:
        UserError: a file can't be read, or a setting is not supported; the message names its file and line.
    """
    solver, place = parse_text(path, "SolverParameter")
    check_defaults(solver, place, free=_READ | _WITHOUT_EFFECT)
    for needed in ("max_iter", "base_lr", "lr_policy"):
        if not solver.HasField(needed):
            raise place.error(f"{needed} is missing")
    if len(solver.test_iter) > 1:
        tests = len(solver.test_iter)
        raise place.error(f"test_iter is set {tests} times; only one test net is supported", "test_iter", 1)
    keys: dict[str, Any] = dict(_convert_nets(solver, place).keys)
    keys["data"]["shards"] = ""
    if not (solver.test_interval and solver.test_iter):
        keys["data"]["test"] = {"split": ""}
    keys["optim"] |= _optim(solver, place)
    keys["train"] = {
        "max_iter": solver.max_iter,
        "iter_size": solver.iter_size,
        "test_interval": solver.test_interval,
        "test_iter": solver.test_iter[0] if solver.test_iter else 0,
        "test_initialization": solver.test_initialization,
        "display": solver.display,
        "average_loss": solver.average_loss,
    }
    if solver.random_seed >= 0:
        keys["train"]["seed"] = solver.random_seed
    keys["checkpoint"] = {"snapshot": solver.snapshot}
    _check_ranges(keys, place)
    keys["solver"] = str(path)
    keys["run_dir"] = solver.snapshot_prefix or path.stem
    if solver.weights:
        keys["weights"] = ",".join(solver.weights)
    return keys


def read_solver_nets(path: Path) -> NetConfig:
    """Read the nets of a solver.prototxt.

    Raises:
        UserError: a file can't be read, or a net is not supported.
    """
    return _convert_nets(*parse_text(path, "SolverParameter"))


def _convert_nets(solver: Any, place: Place) -> NetConfig:  # noqa: ANN401 -- a message class made at run time
    """Find the nets of training and of testing as Caffe does, and convert them."""
    given = [name for name in _TRAIN_NETS if solver.HasField(name)]
    if len(given) != 1:
        found = f"{' and '.join(given)} are both set; keep one of them" if given else "net is missing"
        raise place.error(found)
    train = _open_net(solver, given[0], place)
    tests = [(name, index) for name in _TEST_NETS for index in range(len(getattr(solver, name)))]
    if len(tests) > 1:
        raise place.error(f"{len(tests)} test nets; only one is supported", *tests[1])
    shared = train if given[0] in {"net", "net_param"} else None
    return convert_nets(train, _open_net(solver, tests[0][0], place) if tests else shared, solver)


def _open_net(solver: Any, name: str, place: Place) -> Net:  # noqa: ANN401
    value = getattr(solver, name)
    if not isinstance(value, str) and not hasattr(value, "DESCRIPTOR"):  # repeated
        value = value[0]
    if not isinstance(value, str):
        return Net(value, place.at(name, label=""))
    return read_net(Path(value))


def _check_ranges(keys: dict[str, Any], place: Place) -> None:
    """Check the solver's values here, where the error can name the line."""
    try:
        OptimConfig(**keys["optim"])
        TrainConfig(**keys["train"])
        CheckpointConfig(**keys["checkpoint"])
    except ValueError as error:
        key = str(error).split()[0]
        raise place.error(str(error), key.rpartition(".")[2]) from error


def _optim(solver: Any, place: Place) -> dict[str, Any]:  # noqa: ANN401
    """Return the section `optim`; Caffe's default of a missing number is 0."""
    policy = solver.lr_policy
    if policy not in _POLICIES:
        raise place.error(f"lr_policy {policy!r} isn't one of Caffe's: {', '.join(_POLICIES)}", "lr_policy")
    if policy == "step" and solver.stepsize < 1:
        raise place.error("lr_policy is step, but stepsize is missing or below 1; Caffe has no default", "lr_policy")
    if policy == "multistep" and not solver.stepvalue:
        policy = "fixed"  # Caffe never lowers the rate then
    optim: dict[str, Any] = {
        name: round_float32(getattr(solver, name))
        for name in ("base_lr", "gamma", "power", "momentum", "weight_decay", "clip_gradients")
    }
    optim |= {"lr_policy": policy, "stepvalue": list(solver.stepvalue)}
    if policy in {"step", "sigmoid"}:  # the others don't read it
        optim["stepsize"] = solver.stepsize
    return optim
