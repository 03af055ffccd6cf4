"""The functions of the package: `from shards import assemble, open_shards`."""

import sys

import pytest

import shards
from tests.programs import run


def test_a_folder_of_pictures_becomes_shards_and_is_read(drawn, tmp_path):
    for number, name in enumerate(sorted(drawn.folder.glob("train_*.jpg"))[:6]):
        target = tmp_path / "pictures" / ("dog" if number % 2 else "cat") / name.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(name.read_bytes())
    counts = shards.assemble(tmp_path / "pictures", tmp_path / "out", workers=1, test_share=0.4)
    assert counts == {"kept": 6}
    train, test = (shards.open_shards(tmp_path / "out", split) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (4, 2, ("cat", "dog"))


def test_a_script_needs_no_guard(drawn, tmp_path):
    """The packing processes do not run the script again."""
    script = tmp_path / "script.py"
    lists = [flag.removeprefix("--list=") for flag in drawn.lists if flag.startswith("--list=")]
    call = f"assemble({lists!r}, {str(tmp_path / 'out')!r}, classes={str(drawn.folder / 'classes.txt')!r})"
    script.write_text(f"from shards import assemble\nprint('once', flush=True)\nprint({call})\n")
    done = run(sys.executable, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["once", "{'kept': 52}"]


def test_mistakes_are_errors_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        shards.assemble(tmp_path, tmp_path / "out", image_size=0)
    with pytest.raises(
        ValueError, match=r"encode_format: Expected one of \['original', 'pixels', 'jpg'\]. Got value: png"
    ):
        shards.assemble(tmp_path, tmp_path / "out", encode_format="png")
    with pytest.raises(ValueError, match=r"images: Expected an int. Got value: many"):
        shards.assemble(tmp_path, tmp_path / "out", images="many")
    with pytest.raises(shards.ShardsError, match="nowhere"):
        shards.assemble(tmp_path / "nowhere.csv", tmp_path / "out")
    with pytest.raises(TypeError, match=r"assemble has no setting imagesize; did you mean image_size\?"):
        shards.assemble(tmp_path, tmp_path / "out", imagesize=5)


def test_the_import_is_light():
    code = "import sys, shards; print(sorted({'numpy', 'pyarrow', 'torch', 'PIL'} & set(sys.modules)))"
    assert run("python3", "-c", code).stdout.strip() == "[]"
