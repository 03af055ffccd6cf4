import json

import pytest

from stylefinetune.checkpoint.atomic_folder import write_folder
from stylefinetune.errors import UserError
from stylefinetune.evaluate import evaluate
from tests.programs import metrics, python


def test_a_checkpoint_alone_gives_the_test_result_of_the_run(trained, capsys):
    evaluate([str(trained), "--workers=0"])
    last = metrics(trained, "test")[-1]
    out = capsys.readouterr().out
    assert f"{trained / 'checkpoints' / 'iter_12'}, 11 pictures" in out
    assert f"accuracy = {last['accuracy']:.6g} ({last['correct']} of 11)" in out
    assert f"loss = {last['loss']:.6g}" in out


def test_two_ranks_give_the_same_result(trained):
    done = python("-m", "stylefinetune.evaluate", trained, "--workers=0", ranks=2)
    assert done.returncode == 0, done.stderr
    last = metrics(trained, "test")[-1]
    assert done.stdout.count("accuracy = ") == 1
    assert f"accuracy = {last['accuracy']:.6g} ({last['correct']} of 11)\nloss = {last['loss']:.6g}" in done.stdout


def test_other_shards_and_another_split_can_be_given(trained, original_shards, capsys):
    evaluate([str(trained), f"--shards={original_shards}", "--split=train", "--workers=0"])
    assert f"41 pictures of {original_shards}, split train" in capsys.readouterr().out


def test_a_mistake_is_one_line(trained, original_shards, tmp_path):
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        evaluate([str(tmp_path)])
    with pytest.raises(UserError, match=r"no pictures of split 'val'; it has test, train: choose one with --split$"):
        evaluate([str(trained), "--split=val"])
    with pytest.raises(UserError, match="--workers is -1; it must not be negative"):
        evaluate([str(trained), "--workers=-1"])
    other = tmp_path / "other"

    def rename_classes(folder):
        for file in (trained / "checkpoints" / "iter_5").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "manifest.json").unlink()
        progress = json.loads((folder / "progress.json").read_text())
        (folder / "progress.json").write_text(json.dumps({**progress, "classes": ["Cat", "Dog", "Cow", "Hen"]}))

    write_folder(other, rename_classes)
    with pytest.raises(UserError, match=r"the classes of .* differ from those of"):
        evaluate([str(other), f"--shards={original_shards}"])
