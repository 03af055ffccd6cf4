"""Writes a trained network for other programs: `stylefinetune export RUN --to onnx`."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from shards.format import sync_path
from stylefinetune.checkpoint.checkpoint import read_checkpoint
from stylefinetune.config.command_line import add_ema_option, command_parser, parse_command
from stylefinetune.errors import UserError, run_command
from stylefinetune.export import caffe_files, hf_folder, onnx_file, safetensors_file, torch_program
from stylefinetune.export.check import Comparison, compare_logits, expected_logits
from stylefinetune.export.hub import push_folder
from stylefinetune.export.model_card import model_card
from stylefinetune.export.network import TrainedNetwork
from stylefinetune.export.pictures import Pictures, read_pictures
from stylefinetune.export.publish import publish


@dataclasses.dataclass(frozen=True)
class Format:
    """How a network is written to a path, and how the logits of pictures are computed with what is written."""

    ending: str  # of the default name
    write: Callable[[Path, TrainedNetwork, Pictures], None]
    read_logits: Callable[[Path, TrainedNetwork, Pictures], torch.Tensor]


_FORMATS = {
    "onnx": Format(".onnx", onnx_file.write_onnx, onnx_file.read_logits),
    "torch": Format(".pt2", torch_program.write_program, torch_program.read_logits),
    "safetensors": Format(".safetensors", safetensors_file.write_safetensors, safetensors_file.read_logits),
    "hf": Format("_hf", hf_folder.write_folder, hf_folder.read_logits),
}
CAFFEMODEL = "caffemodel"


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser(
        "export",
        "Writes a trained network for other programs, with its preprocessing and class names. What is written is\n"
        "loaded again and compared with the checkpoint on real pictures.",
        [
            "runs/mine --to onnx",
            "runs/mine:best --to hf --out mine_hf",
            "runs/mine --to caffemodel --out exported --pictures photos/1.jpg photos/2.jpg",
        ],
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="folder of a run (RUN), RUN:best, RUN:ITERATION, or a checkpoint's folder",
    )
    parser.add_argument(
        "--to",
        choices=[*_FORMATS, CAFFEMODEL],
        required=True,
        help="onnx: a file for ONNX Runtime; torch: a program of torch.export; safetensors: the tensors; hf: a folder "
        "for the Hugging Face hub and timm; caffemodel: files for Caffe and OpenCV 4",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="file or folder to write; with caffemodel, the folder of its files (default: the current folder)",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="pictures to compare on, instead of the test split",
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="also write a model card; hf always has one")
    parser.add_argument("--push", metavar="REPO", help="with --to hf: upload the folder to the Hugging Face hub")
    add_ema_option(parser)
    return parser


def export(arguments: list[str]) -> None:
    """Run the command line `arguments`."""
    options = parse_command(build_parser(), arguments)
    if options.push and options.to != "hf":
        raise UserError(f"--push needs --to hf, and --to is {options.to}")
    network = TrainedNetwork(read_checkpoint(options.checkpoint).with_weights(ema=options.ema))
    try:
        written, comparison = _export_caffe(network, options) if options.to == CAFFEMODEL else _export(network, options)
        if options.card:
            with publish(options.card) as new:
                new.write_text(model_card(network), encoding="utf-8")
            written.append(options.card)
    except OSError as error:
        raise UserError(f"{error.filename or options.out} can't be written: {error.strerror}") from error
    for path in written:
        print(path)
    sys.stderr.write(f"{comparison}\n")
    if options.push:
        print(push_folder(written[0], options.push))


def _export(network: TrainedNetwork, options: Namespace) -> tuple[list[Path], Comparison]:
    """Write one file or folder, and check it before it is published."""
    form, is_folder = _FORMATS[options.to], options.to == "hf"
    path: Path = options.out or Path()
    if path.is_dir() and not (is_folder and options.out):
        path /= f"{network.stem}{form.ending}"
    if path.is_dir() != is_folder and path.exists():
        raise UserError(f"--out {path} is {'a file' if is_folder else 'a folder'}; name another one")
    if is_folder:
        hf_folder.check_folder(path)
    if options.to == "onnx":
        onnx_file.check_packages()
    pictures = read_pictures(network.saved, options.pictures)
    with publish(path) as new:
        form.write(new, network, pictures)
        comparison = compare_logits(
            expected_logits(network, pictures), form.read_logits(new, network, pictures).float()
        )
        if is_folder:
            card = model_card(network, for_timm=hf_folder.is_for_timm(new))
            (new / hf_folder.CARD).write_text(card, encoding="utf-8")
    return [path], comparison


def _export_caffe(network: TrainedNetwork, options: Namespace) -> tuple[list[Path], Comparison]:
    """Write Caffe's files, which have fixed names in a folder, and check them before they get these names."""
    folder: Path = options.out or Path()
    folder.mkdir(parents=True, exist_ok=True)
    caffe_files.check_network(network.saved)
    pictures = read_pictures(network.saved, options.pictures)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=folder) as new:
        drafts = caffe_files.write_caffe(network.saved, Path(new))
        comparison = compare_logits(
            expected_logits(network, pictures), caffe_files.read_logits(Path(new), network, pictures)
        )
        for draft in drafts:
            sync_path(draft)
        written = [draft.replace(folder / draft.name) for draft in drafts]
    sync_path(folder)
    return written, comparison


if __name__ == "__main__":
    sys.exit(run_command(export, sys.argv[1:]))
