import os

from shards.local.picture_files import PictureFiles


def test_relative_paths_start_at_the_base_and_missing_files_have_an_outcome(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    files = PictureFiles(tmp_path)
    for name in ("a.jpg", str(tmp_path / "a.jpg")):
        outcome, path = files.take({"image_url": name}, tmp_path)
        assert (outcome.status, path) == ("kept", tmp_path / "a.jpg")
    for name, message in [
        ("b.jpg", "No such file"),
        ("cat\\1.jpg", "No such file or directory; write / instead of \\"),
        ("pipe.jpg", "not a regular file"),
        ("loop.jpg", "symbolic links"),
        ("\0.jpg", "null"),
        ("x" * 5000, "File name too long"),
    ]:
        outcome, path = files.take({"image_url": name}, tmp_path)
        assert (outcome.status, path) == ("missing_file", None)
        assert message in outcome.message
