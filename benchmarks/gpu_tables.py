"""Formats what `benchmarks.gpu` has measured as Markdown, and writes it between the markers of a document."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from stylefinetune.models.flops import peak_flops

Results: TypeAlias = dict[str, Any]

BEGIN, END = "<!-- python -m benchmarks.gpu writes this: begin -->", "<!-- end -->"
ITERATIONS = 100_000  # of the recipe
# Kinds of kernels by a pattern of their names, of cuDNN, cuBLAS, PyTorch and Triton. The first that matches applies.
KINDS = {
    "transform": "crop_kernel",
    "update": "multi_tensor_apply|FusedSgd|fused_sgd",
    "copies": "Memcpy|Memset|copy_kernel|CatArray",
    "max pooling": "max_?pool",
    "convolutions": "conv|cudnn|wgrad|dgrad|fprop|implicit|nchwToNhwc|nhwcToNchw",
    "matrix products": "gemm|cutlass|cublas|splitK|addmm|::mm|matmul",
    "dropout": "dropout|philox|distribution",
    "loss": "softmax|nll_loss",
    "elementwise, and normalization": "elementwise|vectorized|reduce|pow|div|mul|add|relu|threshold",
}


def format_tables(results: Results) -> Iterator[str]:
    """Yield the lines of all tables."""
    cuda = f" with CUDA {results['cuda']}" if results["cuda"] else ""
    network = "the full-size CaffeNet" if results["full_size"] else "a tiny network, whose times mean nothing"
    yield (
        f"{results['device']}, {results['cores']} processor cores, PyTorch {results['torch']}{cuda}, {network}, "
        f"batches of {results['batch']}; {results['flop'] / 1e9:.1f} GFLOP an iteration."
    )
    for part in (_modes, _feed, _evaluation, _where):
        yield from part(results)
    for name, reason in results.get("skipped", {}).items():
        yield f"\nThe part `{name}` was skipped: {reason}."


def _modes(results: Results) -> Iterator[str]:
    if "modes" not in results:
        return
    yield "\n| precision | launched as | ms an iteration | of each round | images/s | MFU | 100,000 iterations |"
    yield "|---|---|---|---|---|---|---|"
    loops = [(_launched(mode["graph"]), mode) for mode in results["modes"]]
    loops += [("plain PyTorch loop", mode) for mode in results.get("plain", ())]
    for name, mode in loops:
        limit = peak_flops(results["device"], mode["precision"])
        used = f"{results['flop'] / (mode['ms'] / 1000) / limit:.0%}" if limit else "peak unknown"
        rounds = ", ".join(f"{each:.2f}" for each in mode["ms_of_rounds"])
        cut = f" (cut after {mode['iterations']:,} iterations)" if mode["cut"] else ""
        yield (
            f"| {mode['precision']} | {name} | {mode['ms']:.2f}{cut} | {rounds} | "
            f"{1000 * results['batch'] / mode['ms']:,.0f} | {used} | {mode['ms'] * ITERATIONS / 60_000:.1f} min |"
        )
    timed = max(mode["iterations"] for mode in results["modes"])
    yield (
        f"\nThe last column is calculated from {timed:,} timed iterations. MFU is the fraction of the device's peak "
        "for the precision, as its data sheet has it."
    )


def _feed(results: Results) -> Iterator[str]:
    rows: list[str] = []
    if "feed" in results:
        feed = results["feed"]
        rows.append(f"| loader alone, {feed['workers']} processes, JPEG | {feed['images_per_second']:,.0f} |")
        if "ms" in feed:
            rate = 1000 * results["batch"] / feed["ms"]
            rows.append(f"| iterations fed by the loader, {_mode(feed['mode'])} | {rate:,.0f} |")
    if "command" in results:
        command = results["command"]
        what = f"the training command, {_mode(command['mode'])}, {command['iterations']:,} iterations"
        rows.append(f"| {what} | {command['images_per_second']:,.0f} |")
    if rows:
        yield from ["\n| | images/s |", "|---|---|", *rows]


def _evaluation(results: Results) -> Iterator[str]:
    if "evaluation" in results:
        yield from ["\n| test | images/s |", "|---|---|"]
        yield from (f"| {name} | {rate:,.0f} |" for name, rate in results["evaluation"].items())


def _where(results: Results) -> Iterator[str]:
    if "where" not in results:
        return
    where = results["where"]
    spent: dict[str, float] = {}
    for name, microseconds in where["kernels"]:
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "others")
        spent[kind] = spent.get(kind, 0.0) + microseconds
    spent["others"] = spent.get("others", 0.0) + where["total_us"] - sum(spent.values())
    yield from [f"\n| kernels of an iteration, {_mode(where['mode'])} | microseconds | part |", "|---|---|---|"]
    for kind, microseconds in sorted(spent.items(), key=lambda pair: -pair[1]):
        yield f"| {kind} | {microseconds:,.0f} | {microseconds / where['total_us']:.0%} |"


def _launched(graph: bool) -> str:  # noqa: FBT001 -- one of a mode's two values
    return "one graph" if graph else "single kernels"


def _mode(mode: list[Any]) -> str:
    precision, graph = mode
    return f"{precision}, {_launched(graph)}"


def replace_tables(document: Path, tables: str) -> None:
    """Replace what is between the markers of a document.

    Raises:
        ValueError: the document does not have both markers once.
    """
    text = document.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[-1]:
        raise ValueError(f"{document} does not have the lines {BEGIN} and {END} once")
    before, after = text.split(BEGIN)
    document.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after.split(END, 1)[1]}", encoding="utf-8")
