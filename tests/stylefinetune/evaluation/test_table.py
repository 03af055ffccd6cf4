import numpy as np

from stylefinetune.evaluation.metrics import evaluate_predictions
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.table import describe


def lines(labels, predicted, classes):
    logits = np.eye(len(classes), dtype=np.float32)[predicted]
    found = Predictions(np.arange(len(labels)), np.array(labels), logits, classes)
    return list(describe(evaluate_predictions(found)))


def test_classes_are_listed_from_the_lowest_recall_with_bars():
    text = lines([0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 1], ["Noir", "Bokeh", "Hazy"])
    assert text[:3] == ["accuracy = 0.666667 (4 of 6)", text[1], "95 % interval of the accuracy = 0.3000 to 0.9032"]
    table = text[text.index("") + 1 :]
    assert table[0].split() == ["class", "pictures", "recall", "precision", "F1", "AP"]
    assert table[1].startswith(f"Bokeh         4   0.500 {'█' * 10}           ")
    assert table[2].startswith(f"Noir          2   1.000 {'█' * 20}  ")
    assert not any("Hazy" in line for line in text)  # it has no pictures
    assert text[-1] == "  2 of 4 pictures of Bokeh are taken for Noir"


def test_of_many_classes_the_worst_are_listed():
    classes = [f"class {number}" for number in range(99)]
    text = lines(list(range(99)), [*range(98), 0], classes)
    assert "(the 40 lowest of 99 classes)" in "".join(text)
    assert sum(line.startswith("class ") for line in text) == 41
    assert any(line.startswith("class 98") for line in text)
    assert any(line.startswith("top-5 accuracy") for line in text)
