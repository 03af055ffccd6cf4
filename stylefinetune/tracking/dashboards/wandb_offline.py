"""Reads the offline folders of Weights & Biases: one for each start of a run, with what it logged."""

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue] -- generated, which W&B types nowhere

# A .wandb file is a header and a LevelDB log: blocks of 32 KiB with chunks of records. A chunk has a checksum, a length
# and a kind. W&B buffers whole blocks, so a killed process leaves a truncated file or only the header.
HEADER, BLOCK, CHUNK = 7, 32768, struct.Struct("<IHB")
FULL, LAST = 1, 4  # kinds of a chunk that ends a record


def continue_offline(parent: Path, run_id: str) -> int:
    """Return the first step that no offline folder of the run has, and remove files without records.

    `wandb sync` concatenates the folders, so a step in two of them appears twice. It fails for all folders if one has a
    file without records.
    """
    first = 0
    for file in _offline_files(parent, run_id):
        records = list(_records(file.read_bytes()))
        if not records:
            file.unlink()
        first = max([first, *(record.history.step.num + 1 for record in records if record.HasField("history"))])
    return first


def stored_aliases(parent: Path, run_id: str) -> set[str]:
    """Return the aliases of all artifacts in the offline folders of the run."""
    records = (record for file in _offline_files(parent, run_id) for record in _records(file.read_bytes()))
    return {alias for record in records if record.HasField("artifact") for alias in record.artifact.aliases}


def mark_synced(parent: Path, run_id: str) -> None:
    """Mark the offline folders of the run as synced, as `wandb sync` does, so that it skips them."""
    for file in _offline_files(parent, run_id):
        file.with_name(f"{file.name}.synced").touch()


def _offline_files(parent: Path, run_id: str) -> list[Path]:
    return sorted(parent.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


def _records(log: bytes) -> Iterator[Record]:
    """Yield the records of a log up to where it is truncated or damaged."""
    offset, record = HEADER, b""
    while True:
        rest_of_block = BLOCK - offset % BLOCK
        if rest_of_block < CHUNK.size:  # padding
            offset += rest_of_block
        if offset + CHUNK.size > len(log):
            return
        _checksum, length, kind = CHUNK.unpack_from(log, offset)
        offset += CHUNK.size
        if kind == 0 or offset + length > len(log):
            return
        record += log[offset : offset + length]
        offset += length
        if kind in {FULL, LAST}:
            try:
                yield Record.FromString(record)
            except DecodeError:
                return
            record = b""
