import dataclasses

from stylefinetune.config.schema import TrainConfig
from stylefinetune.training.plan.describe import describe_plan
from tests.drawn_checkpoints import CONFIG


def config(**train):
    return dataclasses.replace(CONFIG, train=TrainConfig(**train))


def test_the_plan_is_one_line():
    assert describe_plan(config(max_iter=1500), 2000, 20, 500) == (
        "2,000 training pictures of 20 classes; 50 pictures an iteration, 1,500 iterations (37.5 epochs); "
        "500 test pictures every 1,000 iterations and at the end"
    )
    assert describe_plan(config(max_iter=9, iter_size=2, test_interval=0), 100, 2, 0, start=4) == (
        "100 training pictures of 2 classes; 2 x 50 pictures an iteration, 9 iterations (9 epochs) from iteration 4; "
        "no tests"
    )


def test_a_single_thing_is_in_the_singular():
    one = dataclasses.replace(config(max_iter=1, test_interval=1), data=dataclasses.replace(CONFIG.data, batch_size=1))
    assert describe_plan(one, 1, 1, 1) == (
        "1 training picture of 1 class; 1 picture an iteration, 1 iteration (1 epoch); 1 test picture every iteration "
        "and at the end"
    )
