"""The facts of a run that exists only in tests."""

import base64

from stylefinetune.tracking.run_facts import Example, RunFacts, RunResult

# Four gray pixels.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////"
    "////////wAALCAACAAIBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAv/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AT//Z"
)

FACTS = RunFacts(
    train_pictures=1000,
    test_pictures=100,
    classes=("Noir", "Bokeh"),
    parameters=57_000_000,
    trained_parameters=40_000,
    ranks=1,
    device="cpu",
    index="ab" * 32,
    outcomes={"kept": 900, "not_found": 300},
    flops=4_000_000_000,
    peak_flops=None,
    checkpoint_bytes=1000,
    index_file=None,
)

RESULT = RunResult(
    classes=["Noir", "Bokeh"],
    values={"balanced_accuracy": 0.75},
    confusion=[[3, 1], [0, 2]],
    calibration=[(4, 0.7, 0.75), (2, 0.95, 1.0)],
    worst=[Example("00007", "Noir", "Bokeh", 0.9, 0.1, JPEG)],
    best=[Example("00009", "Bokeh", "Bokeh", 0.97, 0.97, b"")],
)
