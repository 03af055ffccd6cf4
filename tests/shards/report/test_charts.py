import pytest

from shards.report.charts import draw_bytes, draw_sizes, format_bytes


def test_every_picture_is_in_one_box():
    widths, heights = [16, 500, 500, 333, 4096], [500, 16, 16, 500, 4096]
    chart = draw_sizes(widths, heights)
    assert sorted(int(box.title.rpartition(": ")[2]) for box in chart.boxes) == [1, 1, 1, 2]
    assert all(box.x >= 0 and box.x + box.width <= 100.001 for box in chart.boxes)
    assert all(box.y >= 0 and box.y + box.height <= 100.001 for box in chart.boxes)
    fullest = max(chart.boxes, key=lambda box: box.density)
    assert fullest.density == 1
    assert fullest.title.startswith("470 to 511 wide, 16 to 17 high")
    lowest = max(chart.boxes, key=lambda box: box.y)
    assert lowest is fullest  # y increases downwards


def test_ticks_are_at_the_positions_of_their_values():
    chart = draw_sizes([64, 1023], [64, 1023])
    ticks = {tick.name: tick.position for tick in chart.x_axis}
    assert ticks["64"] == 0
    assert ticks["128"] == pytest.approx(25)
    assert ticks["256"] == pytest.approx(50)


def test_a_histogram_counts_all_and_its_highest_bar_fills_the_height():
    sizes = [1000, 1024, 1500, 44_000, 44_001, 44_002]
    chart = draw_bytes(sizes)
    assert sum(int(box.title.rpartition(": ")[2]) for box in chart.boxes) == len(sizes)
    assert max(box.height for box in chart.boxes) == 100
    assert all(box.y + box.height == pytest.approx(100) for box in chart.boxes)


@pytest.mark.parametrize("size", [0, 1, 2, 500, 1 << 20])
def test_pictures_of_one_size_make_one_box(size):
    assert len(draw_bytes([size or 1] * 3).boxes) == 1
    assert len(draw_sizes([size or 1], [7]).boxes) == 1


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1023 B"),
        (1024, "1 KB"),
        (44_000, "43 KB"),
        (1_500_000, "1.43 MB"),
        (5 << 40, "5 TB"),
    ],
)
def test_bytes_are_formatted_with_units(count, words):
    assert format_bytes(count) == words
