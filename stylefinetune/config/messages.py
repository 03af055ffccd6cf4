"""Turns jsonargparse's messages into one line in plain words that suggests the key which was meant."""

import dataclasses
import difflib
import re

from stylefinetune.config.keys import KEYS, SECTIONS
from stylefinetune.config.optim import LayerRule

# Names of the settings in other programs, and of our sections where a value is given for one.
_ALIASES = {
    "run_dir": "output output_dir out out_dir outdir save_dir log_dir logdir work_dir workdir results",
    "weights": "pretrained finetune init init_from load snapshot_weights",
    "resume": "checkpoint ckpt resume_from resume_from_checkpoint snapshot_file",
    "data.shards": "data dataset data_dir datadir data_path train_data train_dir root input",
    "data.batch_size": "batch b bs bsz batchsize per_device_train_batch_size train_batch_size micro_batch_size",
    "data.image_size": "img_size imgsz imagesize input_size resolution resize",
    "data.crop_size": "crop",
    "data.mean_value": "mean",
    "data.workers": "num_workers n_workers nworkers j dataloader_num_workers",
    "data.augment.policy": "auto_augment autoaugment aa augmentation rand_augment randaugment trivialaugment",
    "data.augment.random_erasing": "reprob random_erase erasing",
    "data.augment.color_jitter": "jitter colorjitter",
    "data.std_value": "std",
    "data.mirror": "flip hflip horizontal_flip",
    "model.arch": "model architecture network net backbone model_name",
    "model.dropout": "drop drop_rate",
    "optim.optimizer": "optim opt solver_type",
    "optim.base_lr": "lr learning_rate learningrate initial_lr max_lr",
    "optim.lr_policy": "scheduler lr_scheduler sched lr_schedule schedule lr_scheduler_type",
    "optim.gamma": "lr_gamma decay_rate",
    "optim.stepsize": "step_size lr_step_size lr_step decay_epochs",
    "optim.stepvalue": "milestones lr_steps",
    "optim.weight_decay": "wd decay l2",
    "optim.warmup_iter": "warmup warmup_steps warmup_epochs warmup_iters lr_warmup_epochs",
    "optim.clip_gradients": "clip clip_grad grad_clip max_grad_norm gradient_clip_val clip_grad_norm",
    "train.max_iter": "iterations iters max_iters max_steps steps num_steps num_iterations train_steps",
    "train.epochs": "epoch num_epochs max_epochs n_epochs nepochs num_train_epochs",
    "train.iter_size": "accum grad_accum accum_iter accumulate_grad_batches gradient_accumulation_steps accum_steps",
    "train.precision": "amp fp16 bf16 half mixed_precision dtype",
    "train.display": "log_interval print_freq log_every logging_steps log_every_n_steps",
    "train.test_interval": "eval_interval eval_every eval_steps val_interval val_freq check_val_every_n_epoch",
    "checkpoint.snapshot": "save_interval save_every save_steps save_freq checkpoint_interval",
    "checkpoint.keep_last": "save_total_limit keep max_checkpoints",
    "tracking.wandb": "tracking wandb report_to logger",
    "tracking.project": "wandb_project",
    "tracking.name": "run_name wandb_name wandb_run_name experiment name",
    "deepspeed.zero_stage": "deepspeed zero stage",
}
_RULES = "optim.layers"
_FORMER = {"model.name": "model.arch"}  # keys of earlier versions
_MEANT = {alias: key for key, aliases in _ALIASES.items() for alias in aliases.split()}
# What other programs have a flag for, and this one does not.
_ELSEWHERE = {
    **dict.fromkeys(
        ("gpus", "gpu", "num_gpus", "ngpus", "devices", "nproc", "nproc_per_node", "world_size", "num_processes"),
        "start one process for each GPU: torchrun --nproc_per_node N -m stylefinetune.train ...",
    ),
    **dict.fromkeys(("nodes", "num_nodes", "nnodes"), "launch/train.sh starts a run on several nodes"),
    **dict.fromkeys(
        ("device", "cuda", "no_cuda", "accelerator"), "GPUs are used if there are any; CUDA_VISIBLE_DEVICES chooses"
    ),
    **dict.fromkeys(("num_classes", "classes", "nb_classes", "num_labels"), "the classes are those of data.shards"),
}


def one_line(message: str) -> str:
    """Join jsonargparse's message to one line; suggest the nearest key if one is unknown."""
    line = re.sub(r"\s+", " ", message).strip()
    line = re.sub(r"^Parser key \"([\w.]+)\": ", r"\1: ", line)
    if line.startswith(f"{_RULES}: "):
        return _rule_error(line)
    line = re.sub(r"<class '(\w+)'>", r"\1", line).replace("typing.Literal", "one of ")
    line = line.replace("Expected a int", "Expected an int").replace("Expected a one of", "Expected one of")
    union = (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: (.{,80}).*"
    )
    line = re.sub(union, r"Expected one of \1. Got value: \2", line).replace("NoneType", "null")
    line = line.replace("one of one of [", "one of [")
    unknown = re.search(r"unrecognized arguments: -+([^\s=]+)|^Option '([^']+)' is not accepted", line)
    in_group = re.search(r"Group '([\w.]+)' does not accept option '([^']+)'", line)
    section = re.match(r"([\w.]+): Unable to load config '(.*?)'", line)
    if section and section[1] in SECTIONS:
        return section_error(section[1], section[2])
    if in_group:
        return unknown_key(f"{in_group[1]}.{in_group[2]}")
    if unknown:
        return unknown_key(unknown[1] or unknown[2])
    return line.replace("unrecognized arguments: ", "unknown arguments, neither a flag nor the value of one: ")


def _rule_error(line: str) -> str:
    """Return the line for a mistake in optim.layers."""
    names = [field.name for field in dataclasses.fields(LayerRule)]
    value = re.search(r"Parser key \"(\w+)\": .*(?:Got|Given) value: (.*)", line)
    unknown = re.search(r"Option '([^']+)' is not accepted", line)
    if value:
        kind = "text" if value[1] == "match" else "an integer" if value[1] == "freeze_until" else "a number"
        return f"{_RULES}: {value[1]} is {value[2]}; it must be {kind}"
    if unknown and f"{unknown[1]}_mult" in names:
        return f"{_RULES}: a rule has no key {unknown[1]}; did you mean {unknown[1]}_mult?"
    if unknown:
        return f"{_RULES}: a rule has no key {unknown[1]}; its keys are {', '.join(names)}"
    found = "a rule has no key match" if "are required: match" in line else "it is not a list of rules"
    return f'{_RULES}: {found}; write for example [{{match: "fc8_*", lr_mult: 10}}]'


def section_error(section: str, value: object) -> str:
    """Return the line for a section that has a value instead of keys, or nothing."""
    if value is None:
        return f"{section} has no keys; give some, or remove it"
    return f"{section} is {value!r}; it is a section of several keys{suggestion(section)}"


def unknown_key(name: str) -> str:
    """Return the line for an unknown key."""
    return f"unknown key {name}{suggestion(name)}"


def suggestion(name: str) -> str:
    """Return "; did you mean KEY?", or where the setting is if there is no such key."""
    last = name.replace("-", "_").rpartition(".")[2].lower()
    if name in _FORMER:
        return f"; it is {_FORMER[name]} now"
    if last in _ELSEWHERE:
        return f"; {_ELSEWHERE[last]}"
    meant = _MEANT.get(last)
    same_name = [key for key in KEYS if key.rpartition(".")[2] == last]
    near = same_name or ([meant] if meant else _nearest(name.replace("-", "_"), last))
    return f"; did you mean {near[0]}?" if near else "; --help all lists the keys"


def _nearest(name: str, last: str) -> list[str]:
    """Return the key whose whole name or whose last part is most like the unknown one."""
    if name in SECTIONS:
        return []
    by_last = {key.rpartition(".")[2]: key for key in reversed(KEYS)} | _MEANT
    in_full = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.6)
    return in_full or [by_last[part] for part in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
