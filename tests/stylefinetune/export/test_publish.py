import pytest

from stylefinetune.export.publish import publish


def test_a_file_appears_when_it_is_complete(tmp_path):
    final = tmp_path / "new folder" / "net.onnx"
    for text in ("first", "second"):
        with publish(final) as new:
            new.write_text(text)
            assert not final.exists() or final.read_text() != text
        assert final.read_text() == text
    assert list(final.parent.iterdir()) == [final]


def test_a_folder_replaces_the_earlier_one(tmp_path):
    final = tmp_path / "net"
    for name in ("a", "b"):
        with publish(final) as new:
            new.mkdir()
            (new / name).write_text("")
    assert [path.name for path in final.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [final]


def fail(path):
    with publish(path) as new:
        new.write_text("half")
        raise RuntimeError


def test_a_failure_leaves_what_was_there(tmp_path):
    final = tmp_path / "net.onnx"
    with pytest.raises(RuntimeError):
        fail(final)
    assert list(tmp_path.iterdir()) == []
    final.write_text("earlier")
    with pytest.raises(RuntimeError):
        fail(final)
    assert list(tmp_path.iterdir()) == [final]
    assert final.read_text() == "earlier"
