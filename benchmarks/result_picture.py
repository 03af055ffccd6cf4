"""Writes a page that shows the result of a quickstart: `python -m benchmarks.result_picture SHARDS RUN result.html`.

The page has the first test picture of each class, the predicted class and its probability, and the run's test accuracy
and training loss. The README's picture is a screenshot of it:

    chromium --headless --screenshot=result.png --window-size=1130,690 --hide-scrollbars result.html
"""

import argparse
import base64
from pathlib import Path

import cv2
import torch

from benchmarks.caffe_checks import CPU, metrics
from shards.format.images import read_member
from shards.format.index import ShardIndex
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.data.transforms import Crops

STYLE = """<meta charset="utf-8"><style>body{font:13px sans-serif;margin:16px;display:flex;gap:28px}
main{display:grid;grid-template-columns:repeat(5,120px);gap:8px} figure{margin:0;height:158px} img{width:120px}
.right{color:#186a3b} .wrong{color:#b03a2e} h4{margin:0 0 6px}</style>"""
WIDTH, HEIGHT = 380, 250  # of a curve, in pixels


def draw_curve(title: str, points: list[tuple[float, float]], top: float) -> str:
    """Return an SVG curve of (iteration, value) points, with a value axis from 0 to `top`."""
    last = points[-1][0]
    line = " ".join(f"{30 + x / last * WIDTH:.1f},{HEIGHT + 10 - y / top * HEIGHT:.1f}" for x, y in points)
    ticks = "".join(
        f'<text x="0" y="{HEIGHT * (1 - part) + 14}">{top * part:g}</text>'
        f'<path d="M30 {HEIGHT * (1 - part) + 10}h{WIDTH}" stroke="#ddd"/>'
        for part in (0, 0.5, 1)
    )
    end = f'<text x="{WIDTH - 60}" y="{HEIGHT + 30}">{last:g} iterations</text>'
    line = f'<polyline points="{line}" fill="none" stroke="#1f618d" stroke-width="2.5"/>'
    return f'<h4>{title}</h4><svg width="{WIDTH + 40}" height="{HEIGHT + 50}">{ticks}{end}{line}</svg>'


def main(shards: Path, run: Path, page: Path) -> None:
    """Write `page`."""
    saved, entries, figures = read_checkpoint(run), ShardIndex.load(shards).entries("test"), ""
    net, transform = saved.build_network(CPU)
    (height, width), (rows, columns) = saved.progress.picture_size, saved.progress.input_size
    corner = (torch.tensor([(height - rows) // 2]), torch.tensor([(width - columns) // 2]))
    for label, name in enumerate(saved.progress.classes):
        row = entries.label.tolist().index(label)
        with (shards / entries.shard[row]).open("rb") as tar:
            tar.seek(int(entries.offset[row]))
            pixels = read_member(tar.read(int(entries.length[row])), entries.format[row])
        with torch.no_grad():
            blob = transform(torch.tensor(pixels)[None], Crops(*corner, torch.tensor([False]), (rows, columns)))
            probability, best = net(blob).softmax(1)[0].max(0)
        jpg = base64.b64encode(cv2.imencode(".jpg", pixels[:, :, ::-1])[1].tobytes()).decode()
        kind, truth = ("right", "") if best == label else ("wrong", f"<br>(is {name})")
        text = f'<div class="{kind}">{saved.progress.classes[int(best)]} {probability:.2f}{truth}</div>'
        figures += f'<figure><img src="data:image/jpeg;base64,{jpg}">{text}</figure>'
    tests = [(test["iteration"], test["accuracy"]) for test in metrics(run, "test")]
    losses = [(step["iteration"], step["loss"]) for step in metrics(run, "train")]
    curves = draw_curve(f"Test accuracy: {tests[-1][1]:.3f} at the end", tests, 1) + draw_curve(
        "Training loss", losses, 4
    )
    page.write_text(f"{STYLE}<main>{figures}</main><div>{curves}</div>", encoding="utf-8")


if __name__ == "__main__":
    purpose = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.result_picture", description=purpose)
    parser.add_argument("shards", type=Path, help="data/quickstart")
    parser.add_argument("run", type=Path, help="runs/quickstart")
    parser.add_argument("page", type=Path, help="HTML file to write")
    main(**vars(parser.parse_args()))
