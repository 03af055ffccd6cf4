import cv2
import numpy as np

from stylefinetune.run_report.lr_chart import draw_range_test
from stylefinetune.training.lr_range import RangePoint


def pixels(points, suggested):
    decoded = cv2.imdecode(np.frombuffer(draw_range_test(points, suggested), np.uint8), cv2.IMREAD_COLOR)
    return decoded.astype(int)


def test_the_chart_is_a_png_and_marks_the_suggested_rate():
    points = [RangePoint(10.0**power, 2.0 - 0.1 * power, 2.0 - 0.1 * power) for power in range(-5, 2)]
    points.append(RangePoint(100.0, 1e30, 1e29))
    without, marked = (pixels(points, suggested) for suggested in (None, 1e-3))
    assert without.shape[1] > 1000

    def red(picture):
        return (picture[..., 2] - picture[..., 0] > 100).sum()

    assert red(without) == 0 < red(marked)
