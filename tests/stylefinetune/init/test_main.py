import cv2
import numpy as np
import pytest

from stylefinetune.errors import UserError
from stylefinetune.init.__main__ import init
from tests.programs import metrics, python, train_on


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten pictures of each of two colours."""
    root = tmp_path_factory.mktemp("init") / "my photos"
    for label, name in enumerate(("blue", "green")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 60, (40, 50, 3), np.uint8)
            pixels[:, :, label] += 180
            cv2.imwrite(str(root / name / f"{number}.png"), pixels)
    return root


def succeed(*arguments, cwd):
    done = python("-m", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_the_written_files_pack_check_and_train(photos, tmp_path):
    """As they are, by the commands that are printed."""
    flags = ["--arch=mobilenet_v3_small", "--weights=none", "--epochs=1"]
    done = succeed("stylefinetune", "init", photos, *flags, cwd=tmp_path)
    assert done.stdout == "shards.yaml\nfinetune.yaml\n"
    assert done.stderr.splitlines()[:2] == ["next:", "  shards assemble --config shards.yaml"]
    succeed("shards", "assemble", "--config", "shards.yaml", cwd=tmp_path)
    checked = succeed("stylefinetune", "check", "--config", "finetune.yaml", cwd=tmp_path)
    assert "train 16, test 4 pictures; 2 classes: blue, green" in checked.stderr
    trained = train_on(1, "--config=finetune.yaml", "--tracking.wandb=disabled", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "my_photos"
    assert metrics(run, "test")[-1]["count"] == 4
    assert (run / "best").is_dir()


def test_shards_need_no_assembly_and_nothing_is_overwritten(pixel_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    init([str(pixel_shards), "--arch=caffenet", "--batch_size=10"])
    printed = capsys.readouterr()
    assert printed.out == "finetune.yaml\n"
    assert "shards assemble" not in printed.err
    text = (tmp_path / "finetune.yaml").read_text()
    assert "batch_size: 10 # pictures of all processes together\n" in text
    with pytest.raises(UserError, match=r"finetune\.yaml exists; remove it, or give another --out, or --print"):
        init([str(pixel_shards)])
    assert (tmp_path / "finetune.yaml").read_text() == text


def test_print_writes_no_file(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    init([str(photos), "--print", "--arch=caffenet"])
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert printed.startswith("# shards.yaml\n# Packs the folder ")
    assert "\n# finetune.yaml\n# Fine-tunes caffenet on the folder " in printed


def test_the_commands_in_the_files_name_their_folder(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    init([str(photos), "--out=my configs", "--arch=caffenet"])
    printed = [line.strip() for line in capsys.readouterr().err.splitlines()[1:]]
    texts = "".join((tmp_path / "my configs" / name).read_text() for name in ("shards.yaml", "finetune.yaml"))
    assert "stylefinetune check --config 'my configs/finetune.yaml'" in printed
    assert all(command in texts for command in printed)
    assert "-m stylefinetune.train --config 'my configs/finetune.yaml'" in texts


def test_a_mistake_is_one_line(photos, tmp_path):
    with pytest.raises(UserError, match="did you mean resnet50"):
        init([str(photos), "--arch=resnet5", f"--out={tmp_path}"])
    with pytest.raises(UserError, match="--epochs must be above 0, and --batch_size at least 1"):
        init([str(photos), "--batch_size=0", f"--out={tmp_path}"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.* can't be written"):
        init([str(photos), "--arch=caffenet", f"--out={tmp_path / 'file' / 'x'}"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
