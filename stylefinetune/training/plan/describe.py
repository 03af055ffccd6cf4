"""Describes the plan of a run in a line."""

from shards.format import counted
from stylefinetune.config.schema import Config


def describe_plan(config: Config, pictures: int, classes: int, test_pictures: int, start: int = 0) -> str:
    """Return a line with the pictures, the batch, the iterations, the epochs and the tests of a run.

    It starts or resumes from iteration `start`, and has no tests if there are no test pictures.
    """
    train, batch = config.train, counted(config.data.batch_size, "picture")
    accumulated = f"{train.iter_size} x {batch}" if train.iter_size > 1 else batch
    epochs = train.max_iter * config.pictures_per_iteration / pictures
    shown = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    resumed = f" from iteration {start:,}" if start else ""
    interval = "every iteration" if train.test_interval == 1 else f"every {train.test_interval:,} iterations"
    tests = f"{interval} and at the end" if train.test_interval else "at the end"
    tested = f"{counted(test_pictures, 'test picture')} {tests}" if test_pictures else "no tests"
    return (
        f"{counted(pictures, 'training picture')} of {counted(classes, 'class')}; {accumulated} an iteration, "
        f"{counted(train.max_iter, 'iteration')} ({shown} {'epoch' if shown == '1' else 'epochs'}){resumed}; {tested}"
    )
