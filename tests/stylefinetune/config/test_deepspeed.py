import pytest

from stylefinetune.config.cli import dump_config, load_config, parse_config
from stylefinetune.config.deepspeed import DeepSpeedConfig
from stylefinetune.errors import UserError

EXTRA = {"zero_optimization": {"reduce_bucket_size": 50000000, "overlap_comm": True}, "wall_clock_breakdown": True}


def test_extra_keys_pass_through_the_command_line_and_config_yaml(tmp_path):
    line = 'zero_optimization: {reduce_bucket_size: 50000000, overlap_comm: true}, "wall_clock_breakdown": true'
    config = parse_config(["--engine=deepspeed", "--deepspeed.zero_stage=3", f"--deepspeed.extra={{{line}}}"])
    assert config.deepspeed == DeepSpeedConfig(zero_stage=3, extra=EXTRA)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("extra", "remedy"),
    [
        ("{gradient_clipping: 1.0}", "gradient_clipping follows from optim.clip_gradients"),
        ("{zero_optimization: {stage: 2}}", "zero_optimization.stage follows from deepspeed.zero_stage"),
        ("{bf16: {enabled: true}}", "bf16.enabled follows from train.precision"),
        ("{optimizer: {type: Adam}}", "optimizer.type follows from optim"),
        ("{1: 2, wandb: {enabled: true}}", "wandb.enabled follows from tracking.wandb"),
        ("{zero_optimization: 3}", "zero_optimization must be a mapping"),
        ("{scheduler: {}}", "scheduler follows from optim.lr_policy"),
        ("{zero_optimization: {offload_optimizer: {device: cpu}}}", "offload_optimizer.device can't be combined"),
        ("{zero_optimization: {cpu_offload: true}}", "cpu_offload can't be combined"),
    ],
)
def test_derived_and_unsupported_keys_are_refused_by_name(extra, remedy):
    with pytest.raises(UserError, match=r"deepspeed\.extra: ") as refused:
        parse_config([f"--deepspeed.extra={extra}"])
    assert remedy in str(refused.value)


def test_an_unknown_stage_is_refused():
    with pytest.raises(UserError, match=r"deepspeed\.zero_stage.*0, 1, 2, 3.*4"):
        parse_config(["--deepspeed.zero_stage=4"])
