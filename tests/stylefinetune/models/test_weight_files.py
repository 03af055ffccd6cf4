import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from stylefinetune.errors import UserError
from stylefinetune.models.weight_files import read_weights, save_tensors, without_common_prefix

TENSORS = {"conv1.weight": torch.rand(2, 3), "bn.num_batches_tracked": torch.tensor(7), "class_token": torch.rand(1, 2)}


def same(found):
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "args": argparse.Namespace(lr=0.1), "lr_scheduler": {"last_epoch": 3}},
        {"model": {"x.y": torch.zeros(1)}, "model_ema": {"n_averaged": torch.tensor(5), **TENSORS}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}},
        {"model": {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in TENSORS.items()}}},
    ],
    ids=["plain", "state_dict", "torchvision", "average", "DataParallel", "compiled"],
)
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "pth.tar"])
def test_the_tensors_of_usual_training_programs_are_found(tmp_path, content, suffix):
    file = tmp_path / f"x.{suffix}"
    torch.save(content, file)
    assert same(read_weights(file))


class Harmful:
    def __reduce__(self):
        return (print, ("run while the file is read",))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {"state_dict": TENSORS, "x": Harmful()},
            "isn't a PyTorch file of tensors only, and other objects are not load",
        ),
        ({"epoch": 3}, "holds no state_dict, a mapping of names to tensors"),
        ([torch.zeros(2)], "holds no state_dict, a mapping of names to tensors"),
    ],
)
def test_anything_else_is_one_line_and_nothing_in_it_is_run(tmp_path, capfd, content, line):
    file = tmp_path / "x.pth"
    torch.save(content, file)
    with pytest.raises(UserError) as error:
        read_weights(file)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "gone"])
def test_an_unreadable_file_is_one_line(tmp_path, damage):
    file = tmp_path / "x.pth"
    torch.save(TENSORS, file)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "text": b"not at all", "cut": file.read_bytes()[:300]}[damage])
    with pytest.raises(UserError, match=r"^weights: \S+x\.pth (can't be read|isn't a PyTorch file)") as error:
        read_weights(file)
    assert "\n" not in str(error.value)


def test_only_a_prefix_of_all_names_is_removed():
    mixed = {"module.a": TENSORS["class_token"], "b": TENSORS["class_token"]}
    assert without_common_prefix(mixed).keys() == {"module.a", "b"}
    assert without_common_prefix({}) == {}


def test_a_checkpoint_gives_the_average_of_its_weights_and_its_file_the_weights(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path))  # a checkpoint without a state of the optimizer
    average = {name: tensor + 1 for name, tensor in TENSORS.items() if name != "bn.num_batches_tracked"}
    slots = {f"ema/{name}": tensor for name, tensor in average.items()}
    save_file({"momentum/conv1.weight": torch.rand(2, 3)}, tmp_path / "optimizer.safetensors")
    assert same(read_weights(tmp_path))
    save_file(slots | {"momentum/conv1.weight": torch.rand(2, 3)}, tmp_path / "optimizer.safetensors")
    found = read_weights(tmp_path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], (TENSORS | average)[name]) for name in TENSORS)
    assert same(read_weights(tmp_path / "model.safetensors"))
    (tmp_path / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"optimizer\.safetensors can't be read"):
        read_weights(tmp_path)


def test_a_file_that_is_missing_and_a_folder_without_weights_are_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        read_weights(tmp_path / "x.safetensors")
    assert str(error.value) == f"weights: {tmp_path}/x.safetensors can't be read: No such file or directory"
    with pytest.raises(UserError) as error:
        read_weights(tmp_path)
    assert str(error.value) == (
        f"weights: the folder {tmp_path} has no model.safetensors; give a checkpoint, such as RUN/checkpoints/iter_1000"
    )


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_others_may_read_what_is_written_as_they_may_read_other_files(tmp_path, umask, mode):
    former = os.umask(umask)
    try:
        save_tensors(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    finally:
        os.umask(former)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode
    assert same(read_weights(tmp_path / "x.safetensors"))
