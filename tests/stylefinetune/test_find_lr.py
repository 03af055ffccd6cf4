import re

import pytest

from stylefinetune.find_lr import build_parser
from stylefinetune.find_lr import find_lr as find_lr_in_process
from tests.programs import NARROW, python

SHORT = ["--iterations=40", "--low=1e-4", "--high=100"]


def find_lr(*flags, ranks=1):
    return python("-m", "stylefinetune.find_lr", *NARROW, *flags, ranks=ranks)


def table(done):
    return [tuple(map(float, line.split()[:3])) for line in done.stdout.splitlines() if re.match(r" +[\d.e-]+ ", line)]


def suggested(done):
    return float(re.search(r"suggested: --optim\.base_lr (\S+)", done.stdout)[1])


def test_the_help_has_the_defaults_of_the_flags(capsys):
    parser = build_parser()
    find_lr_in_process(["--help"])
    shown = dict(re.findall(r"^  --(low|high|iterations) .*\[(.*)\]$", capsys.readouterr().out, re.MULTILINE))
    assert {name: float(value) for name, value in shown.items()} == {
        name: parser.get_default(name) for name in ("low", "high", "iterations")
    }


def test_a_run_that_exists_gets_nothing_but_the_chart(trained, pixel_shards):
    def files():
        return {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}

    before = files()
    done = find_lr(*SHORT, f"--data.shards={pixel_shards}", f"--run_dir={trained}", "--train.epochs=3")
    assert done.returncode == 0, done.stderr
    chart = trained / "find_lr.png"
    assert chart.read_bytes().startswith(b"\x89PNG")
    chart.unlink()
    assert files() == before
    rates, losses, _ = zip(*table(done), strict=True)
    assert rates[0] == 1e-4
    assert list(rates) == sorted(rates)
    assert losses[0] < 3  # four classes and random weights
    assert "The loss diverges at" in done.stdout
    assert 1e-4 < suggested(done) < rates[-1]


def test_two_ranks_find_what_one_finds(pixel_shards, tmp_path):
    flags = [*SHORT, "--model.dropout=0", f"--data.shards={pixel_shards}"]
    one, two = (find_lr(*flags, f"--out={tmp_path / str(ranks)}.png", ranks=ranks) for ranks in (1, 2))
    assert two.returncode == 0, two.stderr
    for mine, theirs in zip(table(one)[:10], table(two)[:10], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert (tmp_path / "2.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--low=1", "--high=0.1"], "--low is 1, --high 0.1 and --iterations 100; rates rise from --low, above 0"),
        (["--iterations=1"], "--iterations 1; rates rise"),
        (["--low=few"], "argument --low: invalid float value: 'few'"),
        (["--data.shards=nowhere"], "nowhere"),
        (["--iteration=5"], "unknown key iteration"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(flags, message, tmp_path):
    done = find_lr(*flags, f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
