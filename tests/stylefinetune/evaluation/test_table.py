import numpy as np

from stylefinetune.evaluation.baselines.baselines import Baselines, Score
from stylefinetune.evaluation.metrics import evaluate_predictions
from stylefinetune.evaluation.predictions import Predictions
from stylefinetune.evaluation.suspects import Suspects
from stylefinetune.evaluation.table import describe, describe_baselines, describe_suspects


def lines(labels, predicted, classes):
    logits = np.eye(len(classes), dtype=np.float32)[predicted]
    found = Predictions(np.arange(len(labels)), np.array(labels), logits, classes)
    return list(describe(evaluate_predictions(found)))


def evaluation_of(classes):
    labels = np.arange(10) % classes
    logits = np.eye(classes, dtype=np.float32)[labels]
    return evaluate_predictions(Predictions(np.arange(10), labels, logits, [f"class {n}" for n in range(classes)]))


def test_classes_are_listed_from_the_lowest_recall_with_bars():
    text = lines([0, 0, 1, 1, 1, 1], [0, 0, 1, 0, 0, 1], ["Noir", "Bokeh", "Hazy"])
    assert text[:3] == ["accuracy = 0.666667 (4 of 6)", text[1], "95 % interval of the accuracy = 0.3000 to 0.9032"]
    table = text[text.index("") + 1 :]
    assert table[0].split() == ["class", "pictures", "recall", "precision", "F1", "AP"]
    assert table[1].startswith(f"Bokeh         4   0.500 {'█' * 10}           ")
    assert table[2].startswith(f"Noir          2   1.000 {'█' * 20}  ")
    assert table[3] == "Not in the table, since they have no pictures here: Hazy"
    assert text[-1] == "  2 of 4 pictures of Bokeh are taken for Noir"


def test_of_many_classes_the_worst_are_listed():
    classes = [f"class {number}" for number in range(99)]
    text = lines(list(range(99)), [*range(98), 0], classes)
    assert "(the 40 lowest of 99 classes)" in "".join(text)
    assert sum(line.startswith("class ") for line in text) == 41
    assert any(line.startswith("class 98") for line in text)
    assert any(line.startswith("top-5 accuracy") for line in text)
    few = lines([0], [0], classes)
    names = "class 1, class 2, class 3, class 4, class 5"
    assert few[-1] == f"Not in the table, since they have no pictures here: {names}, and 93 more"


def test_baselines_are_compared_with_the_network():
    knn, probe = Score(7, 0.7, (0.4, 0.9), 0.95), Score(8, 0.8, (0.5, 0.94), 1.0)
    found = Baselines("train", 20_000, 64_000, "input of fc", 512, 10, 20, 0.01, knn, probe)
    text = list(describe_baselines(evaluation_of(6), found))
    assert text == [
        "",
        "Classifiers of the input of fc (512 features), fitted to 20,000 of 64,000 pictures of split train:",
        "classifier                     accuracy  95 % interval         top-5",
        "this network                     1.0000  0.7225 to 1.0000     1.0000",
        "20 nearest neighbours            0.7000  0.4000 to 0.9000     0.9500",
        "linear probe, L2 penalty 0.01    0.8000  0.5000 to 0.9400     1.0000",
    ]
    few = list(describe_baselines(evaluation_of(3), found))
    assert few[2] == "classifier                     accuracy  95 % interval"
    assert few[4] == "20 nearest neighbours            0.7000  0.4000 to 0.9000"


def test_the_ten_most_suspect_labels_are_listed():
    rows, zeros = np.arange(12), np.zeros(12)
    found = Suspects(rows, rows % 2, 1 - rows % 2, zeros + 0.02, zeros + 0.9, zeros - 0.88, ["Noir", "Bokeh"])
    text = list(describe_suspects(found, 100, lambda row: f"key{row}"))
    assert text[:4] == [
        "",
        "12 of 100 labels are suspect; the first are:",
        "  0.020 Noir   rather 0.900 Bokeh  key0",
        "  0.020 Bokeh  rather 0.900 Noir   key1",
    ]
    assert len(text) == 12
    none = Suspects(*(each[:0] for each in (rows, rows, rows, zeros, zeros, zeros)), ["Noir", "Bokeh"])
    assert list(describe_suspects(none, 5, str)) == ["", "0 of 5 labels are suspect"]
