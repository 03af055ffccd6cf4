import re

import pytest
import torch

from stylefinetune.errors import UserError, run_command
from stylefinetune.export import __main__ as command
from stylefinetune.export.__main__ import export
from tests.programs import python


@pytest.mark.parametrize(
    ("to", "name"), [("safetensors", "caffenet_iter_12.safetensors"), ("hf", "caffenet_iter_12_hf")]
)
def test_the_test_split_is_the_check_and_the_default_name_says_what_it_is(
    trained, tmp_path, monkeypatch, capsys, to, name
):
    monkeypatch.chdir(tmp_path)
    export([str(trained), f"--to={to}"])
    printed = capsys.readouterr()
    assert printed.out == f"{name}\n"
    assert printed.err.startswith("checked with 8 pictures: logits differ by at most ")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_command_prints_what_it_has_written_and_a_card_on_request(trained, photos, tmp_path):
    out, card = tmp_path / "new" / "net.safetensors", tmp_path / "card.md"
    done = python(
        "-m",
        "stylefinetune",
        "export",
        trained,
        "--to=safetensors",
        "--out",
        out,
        "--card",
        card,
        "--pictures",
        *photos,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n{card}\n"
    assert done.stderr.startswith("checked with 3 pictures")
    assert done.stderr.count("\n") == 1
    assert card.read_text().startswith("---\n")


@pytest.mark.parametrize("to", ["safetensors", "hf", "caffemodel"])
def test_other_logits_are_exit_code_1_and_leave_no_file(trained, tmp_path, monkeypatch, capsys, to):
    real = command.expected_logits
    monkeypatch.setattr(command, "expected_logits", lambda *given: real(*given) * 1.001)
    assert run_command(export, [str(trained), f"--to={to}", f"--out={tmp_path / 'out'}"]) == 1
    assert "the exported network's logits differ from the checkpoint's by" in capsys.readouterr().err
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_the_average_of_the_weights_is_exported_unless_it_is_refused(trained, tmp_path, monkeypatch):
    from stylefinetune.checkpoint.checkpoint import Checkpoint

    asked = []
    real = Checkpoint.with_weights
    monkeypatch.setattr(Checkpoint, "with_weights", lambda saved, *, ema: asked.append(ema) or real(saved, ema=ema))
    for flags in ([], ["--ema=false"]):
        export([str(trained), "--to=safetensors", f"--out={tmp_path / 'x'}", *flags])
    assert asked == [True, False]


def test_a_folder_is_pushed_when_it_is_complete(trained, tmp_path, monkeypatch, capsys):
    pushed = []
    monkeypatch.setattr(
        command, "push_folder", lambda folder, name: pushed.append((sorted(folder.iterdir()), name)) or "URL"
    )
    export([str(trained), "--to=hf", f"--out={tmp_path / 'net'}", "--push=me/net"])
    names = ["README.md", "config.json", "model.safetensors"]
    assert pushed == [([tmp_path / "net" / name for name in names], "me/net")]
    assert capsys.readouterr().out == f"{tmp_path / 'net'}\nURL\n"


LIMITED = """
import resource, sys
from stylefinetune.errors import run_command
from stylefinetune.export.__main__ import export
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(run_command(export, sys.argv[1:]))
"""


def test_a_mistake_is_one_line(trained, tmp_path):
    with pytest.raises(UserError, match="--push needs --to hf, and --to is onnx"):
        export([str(trained), "--to=onnx", "--push=me/net"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file is a file; name another one"):
        export([str(trained), "--to=hf", f"--out={tmp_path / 'file'}"])
    with pytest.raises(UserError, match=r"file can't be written: (File exists|Not a directory)"):
        export([str(trained), "--to=torch", f"--out={tmp_path / 'file' / 'x'}"])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["onnx", "torch", "safetensors", "hf", "caffemodel"])
def test_a_file_that_is_too_large_for_the_disk_is_one_line(trained, tmp_path, kind):
    """As on a full disk; libraries that write files themselves report it in ways of their own."""
    done = python("-c", LIMITED, trained, f"--to={kind}", f"--out={tmp_path / 'net'}")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: .*net.* can't be written: File too large\n", done.stderr)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
