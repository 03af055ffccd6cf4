"""Compares precisions, memory format, compilation and large batches: `python -m benchmarks.switches --work DIR`.

Trains the quickstart's recipe on its sample on two ranks, with several seeds: unchanged; with train.precision bf16 and
fp16, without train.channels_last, and with train.compile; and with batches of 400 as in flickr_style_8gpu.yaml, in an
eighth of the iterations. Prints the mean and the standard deviation of the final test accuracy over the seeds, because
runs with different seeds differ by some points. DIR keeps the sample and the runs; the same command continues and
repeats nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.caffe_checks import ROOT, metrics

SEEDS = (1, 2, 3)
BF16, FP16 = "--train.precision=bf16", "--train.precision=fp16"
CONTIGUOUS, COMPILE = "--train.channels_last=false", "--train.compile=true"
# An eighth of the quickstart's 700 iterations and of its stepsize; 6 iterations of warm-up are the fraction that
# flickr_style_8gpu.yaml has.
LARGE = ("--data.batch_size=400", "--train.max_iter=88", "--optim.stepsize=63")
VARIANTS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "bf16": (BF16,),
    "fp16": (FP16,),
    "contiguous": (CONTIGUOUS,),
    "compile": (COMPILE,),
    "all": (BF16, COMPILE),
    "batch_400": (*LARGE, "--optim.base_lr=0.016", "--optim.warmup_iter=6"),
    "batch_400_cold": (*LARGE, "--optim.base_lr=0.016"),
    "batch_400_lars": (*LARGE, "--optim.base_lr=8", "--optim.lars_trust=0.001", "--optim.warmup_iter=6"),
    "batch_400_unscaled": LARGE,
}


def run(*command: str) -> None:
    """Run a module of this project.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def assemble(work: Path) -> Path:
    """Return the shards of the sample, with their mean; make them if they do not exist."""
    shards, sample = work / "shards", work / "sample"
    if not (shards / "mean.npy").exists():
        with subprocess.Popen(
            [sys.executable, "-m", "launch.sample", "--out", str(sample)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            next(line for line in server.stdout if line.startswith("Serving"))
            recipe = ("--config", "configs/shards/quickstart.yaml")
            run("shards", "assemble", *recipe, f"--list={sample / 'sample.csv'}", f"--out={shards}")
            server.terminate()
        run("shards", "mean", str(shards))
    return shards


def train(work: Path, variant: str, seed: int) -> float:
    """Return the final test accuracy of a run; train it if it is not complete."""
    run_dir = work / f"{variant}_{seed}"
    launcher = ("torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0")
    recipe = ("--config=configs/finetune/quickstart.yaml", f"--data.shards={assemble(work)}", f"--run_dir={run_dir}")
    quiet = ("--train.test_interval=0", "--tracking.wandb=disabled", f"--train.seed={seed}")
    exit_file = run_dir / "exit.json"
    if not exit_file.exists() or json.loads(exit_file.read_text(encoding="utf-8"))["code"] != 0:
        run(*launcher, "-m", "stylefinetune.train", *recipe, *quiet, *VARIANTS[variant])
    return float(metrics(run_dir, "test")[-1]["accuracy"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switches", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the sample and the runs")
    parser.add_argument("--only", choices=VARIANTS, action="append", help="run only this row; may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    work: Path = options.work.resolve()
    print(f"| run | accuracy, mean of {len(options.seeds)} | standard deviation | each |\n|---|---|---|---|")
    for variant in options.only or VARIANTS:
        found = [train(work, variant, seed) for seed in options.seeds]
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        each = ", ".join(f"{accuracy:.3f}" for accuracy in found)
        print(f"| {variant} | {statistics.mean(found):.3f} | {spread:.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
