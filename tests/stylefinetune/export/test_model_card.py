import json
import shutil

from stylefinetune.checkpoint import checkpoint
from stylefinetune.export.model_card import model_card
from stylefinetune.export.network import TrainedNetwork


def card_of(path, **options):
    return model_card(TrainedNetwork(checkpoint.read_checkpoint(path)), **options)


def test_the_card_has_data_recipe_and_licence(trained):
    card = card_of(trained)
    assert card.startswith("---\nlicense: other\npipeline_tag: image-classification\ntags:\n")
    assert (
        "# caffenet\n\n`caffenet`, fine-tuned to tell 4 classes of pictures apart: Noir, Hazy, Bokeh, Bright." in card
    )
    assert "- test: 11 pictures\n- train: 41 pictures\n" in card
    assert "- pictures of the list that could be had: 52 of 52, 100.0%." in card
    assert "| iterations | 12 |" in card
    assert "In the test at iteration 12" in card
    assert "## Licence\n" in card


def test_results_by_class_are_those_of_the_evaluation_of_this_checkpoint(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    evaluation = {
        "checkpoint": "runs/x/checkpoints/iter_12",
        "accuracy": 0.5,
        "count": 11,
        "split": "test",
        "by_class": [{"name": "Noir", "count": 3, "recall": 0.25, "precision": None, "f1": 0.125}],
    }
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(evaluation))
    card = card_of(tmp_path / "run")
    assert "11 pictures of the split test: accuracy 0.5000." in card
    assert (
        "| class | count | recall | precision | f1 |\n|---|---|---|---|---|\n| Noir | 3 | 0.2500 |  | 0.1250 |" in card
    )
    assert "accuracy 0.5000" not in card_of(tmp_path / "run" / "checkpoints" / "iter_10")


def test_shards_that_are_gone_are_no_error(resnet):
    card = card_of(resnet, for_timm=True)
    assert "The shards, `gone`, could not be read" in card
    assert "library_name: timm" in card
    assert "In the test at iteration 4: accuracy 0.5000, loss 0.7500." in card
