"""Other ways to read the pictures of `benchmarks.feed`, each as an endless iterator of batches.

This file imports none of ours, so that the Python of an environment with MosaicML Streaming and litdata can run it.
`--write` makes their datasets.
"""

import argparse
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BATCH, SIDE = 50, 256
IN_MEMORY = 1000  # pictures of the bare programs
Batches = Iterator[Any]


def repeat(loader: Any) -> Batches:  # noqa: ANN401 -- any iterable of batches
    """Yield the batches of a loader, again and again."""
    while True:
        yield from loader


def resize(picture: Any) -> Any:  # noqa: ANN401 -- PIL to torch
    """Resize and convert a PIL picture as torchvision's users do."""
    from torchvision.transforms import v2  # noqa: PLC0415 -- each environment has other packages

    return v2.functional.pil_to_tensor(v2.functional.resize(picture.convert("RGB"), [SIDE, SIDE]))


def load_with_torch(dataset: Any, workers: int, **options: Any) -> Batches:  # noqa: ANN401
    """Read a dataset with PyTorch's DataLoader."""
    from torch.utils.data import DataLoader  # noqa: PLC0415

    options = {"batch_size": BATCH, "drop_last": True, **options}
    return repeat(DataLoader(dataset, num_workers=workers, persistent_workers=True, **options))


def image_folder(folder: Path, _: str, workers: int) -> Batches:
    """Read with ImageFolder of torchvision, shuffled."""
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    return load_with_torch(ImageFolder(str(folder / "pictures"), resize), workers, shuffle=True)


def webdataset(folder: Path, kind: str, workers: int) -> Batches:
    """Read the same tars with a pipeline of webdataset, without a shuffle."""
    from webdataset.compat import WebDataset  # noqa: PLC0415
    from webdataset.shardlists import single_node_only  # noqa: PLC0415

    tars = sorted(map(str, (folder / kind / "train").glob("*.tar")))
    pipeline: Any = WebDataset(tars, shardshuffle=False, nodesplitter=single_node_only, empty_check=False)
    pictures = (
        pipeline.decode().to_tuple("npy", "cls") if kind == "npy" else pipeline.decode("pil").to_tuple("jpg", "cls")
    )
    if kind == "jpg":
        pictures = pictures.map_tuple(resize, lambda label: label)
    return load_with_torch(pictures.batched(BATCH, partial=False), workers, batch_size=None, drop_last=False)


def streaming(folder: Path, kind: str, workers: int) -> Batches:
    """Read with MosaicML Streaming from a local folder, without a shuffle."""
    from streaming import StreamingDataset  # noqa: PLC0415 # pyright: ignore[reportMissingImports] -- see above

    class Resized(StreamingDataset):  # pyright: ignore[reportUntypedBaseClass]
        def __getitem__(self, at: Any) -> Any:  # noqa: ANN401
            sample: Any = super().__getitem__(at)
            return sample if kind == "npy" else resize(sample["picture"])

    return load_with_torch(Resized(local=str(folder / f"mds_{kind}"), batch_size=BATCH, shuffle=False), workers)


def litdata(folder: Path, kind: str, workers: int) -> Batches:
    """Read with litdata from a local folder, without a shuffle."""
    from litdata import StreamingDataLoader, StreamingDataset  # noqa: PLC0415 # pyright: ignore[reportMissingImports] -- see above
    from torchvision.transforms import v2  # noqa: PLC0415

    transform = None if kind == "npy" else [lambda sample: v2.functional.resize(sample, [SIDE, SIDE])]
    dataset = StreamingDataset(str(folder / f"litdata_{kind}"), transform=transform, drop_last=True)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=True)
    return repeat(loader)


def bodies_in_memory(folder: Path, kind: str) -> list[Any]:
    """Return the bytes of JPEGs, or decoded pixels."""
    files = [file.read_bytes() for file in sorted((folder / "pictures").rglob("*.jpg"))[:IN_MEMORY]]
    return files if kind == "jpg" else list(map(_decode, files))


def _decode(body: bytes) -> Any:  # noqa: ANN401
    picture: Any = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)


def _work(bodies: list[Any], kind: str, rounds: Any) -> None:  # noqa: ANN401
    """Copy pixels, or decode and resize JPEGs, a batch for each message."""
    cv2.setNumThreads(0)
    np.ones(2**24, np.uint8)  # once this is freed, malloc keeps the memory of pictures instead of clearing it each time
    slots, place = np.zeros((3, BATCH, SIDE, SIDE, 3), np.uint8), itertools.count()
    while rounds.recv_bytes():
        number = next(place)
        start = number * BATCH % (len(bodies) - BATCH + 1)
        for row, body in zip(slots[number % 3], bodies[start : start + BATCH], strict=True):
            row[:] = body if kind == "npy" else _decode(body)
        rounds.send_bytes(b"done")


def bare(folder: Path, kind: str, workers: int) -> Batches:
    """Copy pixels in memory, or decode and resize JPEGs in memory: the limit of the machine.

    A message for each batch crosses a pipe.
    """
    bodies = bodies_in_memory(folder, kind)
    context = multiprocessing.get_context("fork")
    pipes: list[Any] = []
    for _ in range(workers):
        ours, theirs = context.Pipe()
        context.Process(target=_work, args=(bodies, kind, theirs), daemon=True).start()
        pipes.append(ours)
        ours.send_bytes(b"go")
        ours.send_bytes(b"go")
    for pipe in itertools.cycle(pipes):
        pipe.recv_bytes()
        pipe.send_bytes(b"go")
        yield None


PROGRAMS: dict[str, Callable[[Path, str, int], Batches]] = {
    "bare": bare,
    "webdataset": webdataset,
    "ImageFolder": image_folder,
    "Streaming": streaming,
    "litdata": litdata,
}


def write(folder: Path) -> None:
    """Write the datasets of Streaming and litdata, with their recommended encodings."""
    from litdata import optimize  # noqa: PLC0415 # pyright: ignore[reportMissingImports] -- see above
    from PIL import Image  # noqa: PLC0415
    from streaming import MDSWriter  # noqa: PLC0415 # pyright: ignore[reportMissingImports] -- see above

    files = sorted((folder / "pictures").rglob("*.jpg"))
    columns = {"npy": {"picture": f"ndarray:uint8:{SIDE},{SIDE},3"}, "jpg": {"picture": "jpeg"}}
    for kind, encoding in columns.items():
        with MDSWriter(out=str(folder / f"mds_{kind}"), columns=encoding) as writer:
            for file in files:
                writer.write({"picture": _read_pixels(file) if kind == "npy" else Image.open(file)})
    readers: dict[str, Callable[[Path], Any]] = {"npy": _read_pixels, "jpg": Image.open}
    for kind, read in readers.items():
        optimize(read, files, str(folder / f"litdata_{kind}"), chunk_bytes="64MB", num_workers=1)


def _read_pixels(file: Path) -> Any:  # noqa: ANN401
    return _decode(file.read_bytes())


def processor_seconds() -> float:
    """Return the processor seconds of this process and its living children."""
    children = Path("/proc/self/task").glob("*/children")
    ticks = 0
    for pid in {child for file in children for child in file.read_text().split()}:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / 100


def serve(batches: Batches) -> None:
    """Read batches for the seconds that a line on stdin names; print batches, seconds, and processor seconds."""
    for _ in range(12):  # the first ones wait for processes and files
        next(batches)
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(8):  # were decoded while other programs were measured
            next(batches)
        count, began, spent, rank = 0, time.perf_counter(), processor_seconds(), time.process_time()
        while time.perf_counter() - began < float(line):
            next(batches)
            count += 1
        seconds, rank = time.perf_counter() - began, time.process_time() - rank
        print(json.dumps([count, seconds, processor_seconds() - spent, rank]), flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--serve", nargs=3, metavar=("PROGRAM", "KIND", "WORKERS"))
    options = parser.parse_args()
    if options.write:
        write(options.folder)
    else:
        program, kind, workers = options.serve
        serve(PROGRAMS[program](options.folder, kind, int(workers)))


if __name__ == "__main__":
    main()
