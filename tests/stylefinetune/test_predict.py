import re

import cv2
import numpy as np
import pytest
import torch

from stylefinetune.checkpoint import checkpoint
from stylefinetune.errors import UserError
from stylefinetune.predict import predict
from tests import odd_pictures
from tests.programs import python


def test_a_checkpoint_alone_classifies_pictures(trained, drawn):
    picture = drawn.folder / "test_001.jpg"
    done = python("-m", "stylefinetune.predict", picture, "--checkpoint", trained, "--top=3")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == f"---------- Prediction for {picture} ----------"
    matches = [re.fullmatch(r'(0\.\d{4}|1\.0000) - "(.+)"', line) for line in rest]
    assert len(matches) == 3
    assert all(matches)
    probabilities = [float(match[1]) for match in matches]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {match[2] for match in matches} < {"Noir", "Hazy", "Bokeh", "Bright"}


def test_the_input_is_the_centre_crop_of_the_resized_picture_minus_the_mean(trained, drawn, capsys):
    path = drawn.folder / "test_002.jpg"
    predict([str(path), f"--checkpoint={trained}", "--top=1"])
    saved = checkpoint.read_checkpoint(trained)
    net, _ = saved.build_network(torch.device("cpu"))
    bgr = cv2.resize(cv2.imread(str(path)), (48, 48), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    centre = (bgr - saved.means[1].numpy()[:, :, ::-1])[2:45, 2:45]
    with torch.no_grad():
        probabilities = net(torch.from_numpy(centre.transpose(2, 0, 1).copy())[None]).softmax(1)[0]
    best = int(probabilities.argmax())
    assert f'{probabilities[best]:.4f} - "{saved.progress.classes[best]}"' in capsys.readouterr().out


def test_a_file_that_is_not_a_picture_is_one_line(trained, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg can't be read: No such file"):
        predict([str(tmp_path / "gone.jpg"), f"--checkpoint={trained}"])
    with pytest.raises(UserError, match="--top is 0; it must be at least 1"):
        predict([str(tmp_path / "gone.jpg"), f"--checkpoint={trained}", "--top=0"])
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"text\.jpg is not a picture"):
        predict([str(text), f"--checkpoint={trained}"])


def test_a_jpg_without_its_end_marker_is_classified_like_the_complete_one(trained, drawn, tmp_path, capsys):
    complete = (drawn.folder / "test_001.jpg").read_bytes()
    assert complete.endswith(b"\xff\xd9")
    (tmp_path / "x.jpg").write_bytes(complete)
    predict([str(tmp_path / "x.jpg"), f"--checkpoint={trained}"])
    (tmp_path / "x.jpg").write_bytes(complete[:-2])
    predict([str(tmp_path / "x.jpg"), f"--checkpoint={trained}"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    (tmp_path / "x.jpg").write_bytes(complete[:-40])
    with pytest.raises(UserError, match=r"x\.jpg is not a picture: doesn't decode"):
        predict([str(tmp_path / "x.jpg"), f"--checkpoint={trained}"])


def test_other_formats_of_opencv_are_classified_and_the_cause_is_named(trained, tmp_path, capsys):
    picture = odd_pictures.smooth(1)
    (tmp_path / "x.tif").write_bytes(odd_pictures.encode(".tif", picture))
    (tmp_path / "x.png").write_bytes(odd_pictures.encode(".png", picture[:8, :8]))
    predict([str(tmp_path / "x.tif"), str(tmp_path / "x.png"), f"--checkpoint={trained}", "--top=1"])
    assert capsys.readouterr().out.count("Prediction for") == 2
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(40))
    with pytest.raises(UserError, match=r"x\.png is not a picture: png in Apple's CgBI variant"):
        predict([str(tmp_path / "x.png"), f"--checkpoint={trained}"])
