import pytest

from shards.errors import ShardsError
from shards.url_list.flickr_style import FLICKR_STYLE_CLASSES
from shards.url_list.labels import LabelTexts, doubtful_classes, encode_labels, is_label, read_classes


def encode(*texts, classes=None):
    labels = LabelTexts()
    for text in texts:
        labels.append([text])
    numbers, names = encode_labels(labels, classes)
    return numbers.label.tolist(), names


def test_names_are_numbered_in_sorted_order():
    assert encode("noir", "bright", "noir") == ([1, 0, 1], ("bright", "noir"))


def test_names_are_numbered_in_the_order_of_a_class_list(tmp_path):
    (tmp_path / "classes.txt").write_text("noir\nbright\n\nhazy\n")
    classes = read_classes(str(tmp_path / "classes.txt"))
    assert encode("noir", "bright", classes=classes) == ([0, 1], ("noir", "bright", "hazy"))


def test_integer_labels_are_their_own_names():
    assert encode("3", "0") == ([3, 0], ("0", "1", "2", "3"))
    assert encode() == ([], ())


def test_whole_numbers_may_have_a_decimal_point():
    assert encode("3.0", "01", "0.", "1") == ([3, 1, 0, 1], ("0", "1", "2", "3"))
    assert encode("1.0", "0.0", classes=("noir", "hazy")) == ([1, 0], ("noir", "hazy"))
    assert encode("1.0", "2.0", classes=("2.0", "1.0")) == ([1, 0], ("2.0", "1.0"))  # names


def test_the_official_names_can_be_given():
    assert read_classes("flickr_style") == FLICKR_STYLE_CLASSES
    assert read_classes(None) is None


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(ShardsError, match="row 0 has the label 'hazy', which isn't among the 1 classes"):
        encode("hazy", classes=("noir",))
    with pytest.raises(ShardsError, match="row 1 has the label '2', which"):
        encode("0", "2", classes=("noir", "hazy"))


@pytest.mark.parametrize(("labels", "numbers"), [(["1950", "-3", "noir"], [1, 2, 0]), (["1960", "1950"], [3, 1])])
def test_a_class_list_may_have_names_that_look_like_numbers(labels, numbers):
    assert encode(*labels, classes=("noir", "1950", "-3", "1960"))[0] == numbers


def test_a_byte_order_mark_is_no_part_of_a_class_name(tmp_path):
    (tmp_path / "classes.txt").write_text("noir\r\nété\r\n", encoding="utf-8-sig")
    assert read_classes(str(tmp_path / "classes.txt")) == ("noir", "été")


@pytest.mark.parametrize("text", ["", "noir\nnoir\n", None])
def test_a_class_list_that_cannot_be_used_is_refused(tmp_path, text):
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ShardsError, match=r"classes\.txt"):
        read_classes(str(path))


@pytest.mark.parametrize("label", ["-1", "100000", "900000000", "9" * 5000, "3.5", "1e3", "hazy"])
def test_a_number_that_is_not_a_label_is_refused_and_not_taken_as_a_name(label):
    assert not is_label(label)
    with pytest.raises(ShardsError, match=rf"row 1 has the label '{label[:60]}'; numbers go from 0 to 99,999"):
        encode("2", label)


def test_rows_with_several_labels_are_sorted_and_count_a_label_once():
    labels = LabelTexts()
    labels.append_lists([["noir", "bright"], ["noir", "noir"]])
    labels.append(["hazy"])
    labels.append_lists([["hazy", "bright", "hazy"]])
    numbers, names = encode_labels(labels, None)
    assert names == ("bright", "hazy", "noir")
    assert numbers.several.to_arrow().to_pylist() == [[0, 2], [2], [1], [0, 1]]
    assert numbers.label.tolist() == [0, 2, 1, 0]


def test_an_unknown_label_among_several_is_reported_with_its_row():
    labels = LabelTexts()
    labels.append_lists([["noir", "bright"], ["bright"], ["noir", "hazy"], ["hazy"]])
    with pytest.raises(ShardsError, match="row 2 has the label 'hazy', which isn't among the 2 classes"):
        encode_labels(labels, ("bright", "noir"))


def test_classes_that_are_probably_mistakes_are_named():
    everything = set(range(10))
    assert doubtful_classes(("cat", "dog", "nana"), everything) == []
    missing = "classes with the name of a missing value: NaN, None; remove pictures that have no label"
    assert doubtful_classes(("NaN", "None", "cat"), everything) == [missing]
    (line,) = doubtful_classes(("['cat', 'dog']", "a (big) dog", "cat"), everything)
    assert line.startswith(
        "classes whose names look like lists: ['cat', 'dog']; for several labels a picture, give a JSON"
    )
    alike = "different classes whose names differ only in case, spaces or Unicode form: "
    remedy = "; give them one name if they are one class"
    names = ("Cat", "a b", "a\u00a0b", "cat", "dog", "e\u0301t\u00e9", "\u00e9t\u00e9")
    found = "Cat and cat, a b and a\u00a0b, e\u0301t\u00e9 and \u00e9t\u00e9"
    assert doubtful_classes(names, everything) == [f"{alike}{found}{remedy}"]


def test_classes_without_training_pictures_are_named():
    labels = {2, 4}
    assert doubtful_classes(("0", "1", "2", "3", "4"), labels) == ["classes without training pictures: 0, 1, 3"]
    assert doubtful_classes(("0", "1"), None) == []
    (line,) = doubtful_classes(tuple(map(str, range(9))), labels)
    assert line == "classes without training pictures: 0, 1, 3, 5, 6, and 2 more"
