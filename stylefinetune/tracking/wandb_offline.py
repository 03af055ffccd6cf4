"""What Weights & Biases keeps of an offline run on disk: a folder for each start, with the rows logged since."""

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue] -- generated, which W&B types nowhere

# A LevelDB log after W&B's own header: blocks of 32 KiB, in them chunks of a record, each with its checksum, length and
# kind. Writing is buffered by the block, so that a killed process leaves a file cut short, or one of the header alone.
HEADER, BLOCK, CHUNK = 7, 32768, struct.Struct("<IHB")
WHOLE, LAST = 1, 4


def continue_offline(run_dir: Path, run_id: str) -> int:
    """Returns the first step that no offline folder of the run holds, and removes those that hold nothing.

    `wandb sync` appends the folders one after the other, so that what two of them hold would be there twice; and it
    gives up all of them at one without a record.
    """
    first = 0
    for file in _offline_files(run_dir, run_id):
        steps = None
        for record in _records(file.read_bytes()):
            steps = [-1] if steps is None else steps
            if record.HasField("history"):
                steps.append(record.history.step.num)
        if steps is None:
            file.unlink()
        else:
            first = max(first, *(step + 1 for step in steps))
    return first


def mark_synced(run_dir: Path, run_id: str) -> None:
    """Lets `wandb sync` pass over the run's offline folders, as it marks them itself."""
    for file in _offline_files(run_dir, run_id):
        file.with_name(f"{file.name}.synced").touch()


def _offline_files(run_dir: Path, run_id: str) -> list[Path]:
    return sorted(run_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


def _records(log: bytes) -> Iterator[Record]:
    """Yields the records of a log, up to where it is cut short or damaged."""
    at, body = HEADER, b""
    while True:
        left = BLOCK - at % BLOCK
        if left < CHUNK.size:  # no room for another chunk: the block is filled up
            at += left
        if at + CHUNK.size > len(log):
            return
        _checksum, length, kind = CHUNK.unpack_from(log, at)
        at += CHUNK.size
        if kind == 0 or at + length > len(log):
            return
        body += log[at : at + length]
        at += length
        if kind in {WHOLE, LAST}:
            try:
                yield Record.FromString(body)
            except DecodeError:
                return
            body = b""
