import pytest
import torch

from stylefinetune.export.check import TOLERANCE, DifferentLogitsError, compare_logits


def test_a_difference_is_measured_against_the_largest_logit():
    expected = torch.tensor([[100.0, 0.0], [1.0, 2.0]])
    close = expected + 0.9 * TOLERANCE * 100
    assert str(compare_logits(expected, close)).startswith("checked with 2 pictures: logits differ by at most 0.009")
    with pytest.raises(DifferentLogitsError, match=r"differ from the checkpoint's by 0\.02.*limit is 0\.01; nothing"):
        compare_logits(expected, expected + 2 * TOLERANCE * 100)


@pytest.mark.parametrize("found", [torch.full((2, 2), torch.nan), torch.zeros(2, 3)])
def test_other_outputs_are_an_error_with_exit_code_1(found):
    with pytest.raises(DifferentLogitsError) as raised:
        compare_logits(torch.ones(2, 2), found)
    assert raised.value.code == 1
