import io

import pytest
from rich.console import Console

from stylefinetune.prediction import stream
from stylefinetune.prediction.inputs import Input
from stylefinetune.prediction.loader import PictureLoader
from stylefinetune.prediction.pictures import FetchLimits, NoPicture, PictureFile
from stylefinetune.prediction.stream import UnreadablePicturesError, read_pictures


def new_loader():
    return PictureLoader((40, 30), None, 2, 2, FetchLimits())


def test_bad_pictures_are_reported_and_passed_over(album, capsys):
    bad = NoPicture("x*", "matches no file")
    inputs = [Input(lambda: map(PictureFile, album.paths()[:3])), Input(lambda: iter([bad, bad, bad]))]
    with read_pictures(inputs, new_loader(), show_bar=True) as batches:
        assert [name for batch in batches for name in batch.names] == album.paths()[:3]
    assert capsys.readouterr().err == "error: x* matches no file\n" * 3
    with pytest.raises(UnreadablePicturesError, match=r"^3 of 6 pictures can't be read$") as raised:
        batches.raise_failures()
    assert raised.value.code == 1


def test_good_pictures_raise_nothing(album):
    with read_pictures([Input(lambda: map(PictureFile, album.paths()))], new_loader(), show_bar=False) as batches:
        assert len(list(batches)) == 3
    batches.raise_failures()


@pytest.mark.parametrize(("repeatable", "total"), [(True, "6/6"), (False, "6/?")])
def test_a_long_run_shows_a_bar_on_a_terminal(album, monkeypatch, repeatable, total):
    screen = io.StringIO()
    monkeypatch.setattr(stream, "Console", lambda **_: Console(file=screen, force_terminal=True, width=200))
    monkeypatch.setattr(stream, "_BAR_SECONDS", 0.0)
    found = [*map(PictureFile, album.paths()), NoPicture("x", "is missing")]
    with read_pictures([Input(lambda: iter(found), is_repeatable=repeatable)], new_loader(), show_bar=True) as batches:
        iterator = iter(batches)
        next(iterator)
        for thread in stream.threading.enumerate():
            if thread.name == "count":
                thread.join(60)
        assert len(list(iterator)) == 2
    shown = screen.getvalue()
    assert total in shown
    assert "ETA" in shown
    assert "error: x is missing" in shown
