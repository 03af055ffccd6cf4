"""Measures training on one GPU: `python -m benchmarks.gpu --out DIR [--budget 450] [--docs docs/performance.md]`.

The full-size CaffeNet trains on random pictures, which it makes itself, in batches of 50. The parts, in this order:

- modes: iterations on pictures in the GPU's memory, in each precision, launched one kernel at a time and as a CUDA
  graph; and those of a plain loop over PyTorch's own layers, whose one batch is transformed already. They take turns,
  so that the machine's state affects all of them alike. Each loop reads the loss every 20 iterations, as a run does.
- where: which kernels the GPU executes in an iteration of the fastest mode
- evaluation: pictures per second of a test
- feed: pictures per second of the loader, from JPEG files of 256x256 pixels; and iterations that it feeds
- command: a run of `python -m stylefinetune.train`, from those files

DIR/gpu.json has the results after every part, so that an interruption loses nothing, and DIR/gpu.md the tables. --docs
writes the tables into a document, between its markers; with --render, from an earlier gpu.json, without measuring. A
part that exceeds its share of the budget, in seconds, is cut, and the tables say so. A part that fails is skipped.

Without a GPU, `--device cpu --tiny --iterations 3` tries the program on a tiny network; its times mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.generated_dir import write_tars
from benchmarks.gpu_setup import (
    BATCH,
    FULL,
    TINY,
    Loop,
    Options,
    PlainLoop,
    Precision,
    Trainer,
    count_flop,
    draw_jpegs,
    endless,
    load_random,
    open_dataset,
)
from benchmarks.gpu_tables import format_tables, replace_tables
from shards.format.order import RankBatchSampler
from stylefinetune.data.loader import load_batches
from stylefinetune.engines.precision import set_tf32

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2
PARTS = ("modes", "where", "evaluation", "feed", "command")
Mode: TypeAlias = tuple[Precision, bool]  # whether the iteration is a CUDA graph
Results: TypeAlias = dict[str, Any]


def measure_modes(options: Options) -> Iterator[Results]:
    """Yield what each mode has taken, after every round."""
    loader = load_random(options, "train")
    modes: list[Mode] = [
        ("fp32", False),
        ("tf32", False),
        ("bf16", False),
        ("fp32", True),
        ("tf32", True),
        ("bf16", True),
    ]
    precisions: list[Precision] = ["fp32", "tf32", "bf16"]
    if options.device.type == "cpu":
        modes, precisions = [modes[0], modes[2]], ["fp32", "bf16"]
    loops: dict[tuple[str, Mode], Loop] = {
        **{("modes", mode): Trainer(options, mode[0], graph=mode[1], batches=endless(loader)) for mode in modes},
        **{("plain", (precision, False)): PlainLoop(options, precision) for precision in precisions},
    }
    for loop in loops.values():
        loop.warm_up()
    each = -(-options.iterations // ROUNDS)
    found: dict[tuple[str, Mode], list[tuple[int, float]]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            found[name].append(loop.run(each, options.seconds("modes") / len(loops) / ROUNDS))
        results: Results = {"modes": [], "plain": []}
        for (kind, mode), rounds in found.items():
            results[kind].append({"precision": mode[0], "graph": mode[1], **summarize(rounds, each)})
        yield results


def summarize(rounds: list[tuple[int, float]], wanted: int) -> Results:
    """Return the results of a loop, from the iterations and seconds of each round."""
    milliseconds = [1000 * seconds / count for count, seconds in rounds]
    return {
        "iterations": sum(count for count, _ in rounds),
        "cut": any(count < wanted for count, _ in rounds),
        "ms": sum(milliseconds) / len(milliseconds),
        "ms_of_rounds": milliseconds,
    }


def fastest(results: Results) -> Mode:
    """Return the fastest mode; if none was measured, bf16 in single kernels."""
    best = min(results.get("modes", ()), key=lambda mode: mode["ms"], default=None)
    return (best["precision"], best["graph"]) if best else ("bf16", False)


def measure_where(options: Options, mode: Mode) -> Iterator[Results]:
    """Yield the kernels of an iteration, with their microseconds."""
    trainer = Trainer(options, mode[0], graph=mode[1], batches=endless(load_random(options, "train")))
    trainer.warm_up()
    on_gpu, iterations = options.device.type == "cuda", min(20, options.iterations)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        trainer.run(iterations, limit=60)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = {event.key: getattr(event, field) / iterations for event in profiler.key_averages()}
    kernels = sorted(((name, us) for name, us in spent.items() if us > 0), key=lambda kernel: -kernel[1])
    yield {"where": {"mode": list(mode), "total_us": sum(us for _, us in kernels), "kernels": kernels[:40]}}


def measure_evaluation(options: Options) -> Iterator[Results]:
    """Yield pictures per second of the forward pass, in fp32 and in the mode of training."""
    loader, count = load_random(options, "test"), options.scale.pictures // 5
    rates: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(options, precision, graph=False, batches=iter(()))
        set_tf32(trainer.config.train)
        for _ in range(2):  # the first warms up
            options.synchronize()
            began = time.perf_counter()
            for batch in loader.load(RankBatchSampler(0, count, BATCH, 0, 1)):
                trainer.engine.forward(batch)
            options.synchronize()
            rates[precision] = count / (time.perf_counter() - began)
    yield {"evaluation": rates}


def measure_feed(options: Options, mode: Mode, workers: int) -> Iterator[Results]:
    """Yield pictures per second of the loader alone, and milliseconds of an iteration that it feeds."""
    dataset, limit = open_dataset(options.shards, options.scale), options.seconds("feed") / 2
    sampler = RankBatchSampler(0, BATCH * 10**6, BATCH, 0, 1)
    batches = load_batches(dataset, sampler, workers, options.device)
    for _ in range(3):  # the workers start
        next(batches)
    began, count = time.perf_counter(), 0
    while count < max(options.iterations, 3) and time.perf_counter() - began < limit:
        next(batches)
        count += 1
    options.synchronize()
    alone = count * BATCH / (time.perf_counter() - began)
    yield {"feed": {"workers": workers, "images_per_second": alone}}
    trainer = Trainer(options, mode[0], graph=mode[1], batches=batches)
    trainer.warm_up()
    done, seconds = trainer.run(options.iterations, limit)
    yield {"feed": {"workers": workers, "images_per_second": alone, "mode": list(mode), "ms": 1000 * seconds / done}}


def measure_command(options: Options, mode: Mode, workers: int) -> Iterator[Results]:
    """Yield the rate that the training command logs, with its pictures in the memory of the device."""
    with tempfile.TemporaryDirectory() as run_dir:
        flags = [f"--data.shards={options.shards}", f"--run_dir={run_dir}", "--tracking.wandb=disabled"]
        flags += ["--data.mean_value=104,117,123", "--data.resident=true", f"--data.workers={workers}"]
        flags += [f"--train.precision={mode[0]}", f"--train.cuda_graph={str(mode[1]).lower()}", *options.scale.flags]
        flags += [f"--train.max_iter={options.iterations}", "--train.test_interval=0", "--checkpoint.snapshot=0"]
        display = max(1, min(200, options.iterations // 2))
        done = subprocess.run(
            [sys.executable, "-m", "stylefinetune.train", *flags, f"--train.display={display}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            capture_output=True,
            text=True,
            timeout=options.seconds("command"),
        )
        if done.returncode:
            raise RuntimeError(done.stderr.splitlines()[-1] if done.stderr else f"exit code {done.returncode}")
        lines = map(json.loads, (Path(run_dir) / "metrics.jsonl").read_text().splitlines())
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    yield {"command": {"mode": list(mode), "iterations": options.iterations, "images_per_second": rates[-1]}}


def describe(options: Options) -> Results:
    """Return the machine and the versions."""
    on_gpu = options.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(options.device) if on_gpu else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "full_size": options.scale == FULL,
        "batch": BATCH,
        "flop": count_flop(options.scale),
        "resident_bytes": options.scale.pictures * options.scale.stored**2 * 3,
    }


def measure(options: Options, chosen: list[str], out: Path) -> Results:
    """Measure the chosen parts, and write the results so far after each step."""
    results = describe(options)
    workers = min(16, results["cores"])
    parts: dict[str, Callable[[], Iterator[Results]]] = {
        "modes": lambda: measure_modes(options),
        "where": lambda: measure_where(options, fastest(results)),
        "evaluation": lambda: measure_evaluation(options),
        "feed": lambda: measure_feed(options, fastest(results), workers),
        "command": lambda: measure_command(options, fastest(results), workers),
    }
    began = time.monotonic()
    for name in [name for name in parts if name in chosen]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            for found in in_time(parts[name], options.budget - (time.monotonic() - began)):
                results.update(found)
                write(results, out)
        except Exception as error:  # noqa: BLE001 -- the other parts are worth having
            traceback.print_exc()
            results.setdefault("skipped", {})[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        results["seconds"] = round(time.monotonic() - began)
        write(results, out)
    return results


def in_time(part: Callable[[], Iterator[Results]], left: float) -> Iterator[Results]:
    """Start a part, unless no time is left."""
    if left <= 0:
        raise TimeoutError("no time was left")
    return part()


def write(results: Results, out: Path) -> None:
    """Write the results and the tables."""
    (out / "gpu.json").write_text(json.dumps(results, indent=1))
    (out / "gpu.md").write_text("\n".join(format_tables(results)) + "\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="document whose tables are replaced")
    parser.add_argument("--render", action="store_true", help="only write the tables of DIR/gpu.json")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS, help="what is measured; all by default")
    parser.add_argument("--budget", type=float, default=450, help="seconds for all parts together")
    parser.add_argument("--iterations", type=int, default=2000, help="timed iterations of each mode")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the program")
    return parser


def main(arguments: list[str]) -> int:
    """Run the command line `arguments`, and return the exit code."""
    options = build_parser().parse_args(arguments)
    if options.render:
        results = json.loads((options.out / "gpu.json").read_text())
    elif options.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; --device cpu --tiny --iterations 3 only tries the program", file=sys.stderr)
        return 2
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        scale = TINY if options.tiny else FULL
        with tempfile.TemporaryDirectory() as work:
            folders = Path(work, "shards"), Path(work, "index")
            jpegs = draw_jpegs(64, scale.stored)
            train, test = "train/00000.tar", "test/00000.tar"
            write_tars(folders[0], {train: scale.files, test: 100}, lambda row: jpegs[row % 64], scale.stored)
            write_tars(folders[1], {train: scale.pictures, test: scale.pictures // 5}, None, scale.stored)
            device = torch.device(options.device)
            measured = Options(device, scale, options.iterations, options.budget, *folders)
            results = measure(measured, options.parts, options.out)
    tables = "\n".join(format_tables(results))
    print(tables)
    if options.docs:
        replace_tables(options.docs, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
