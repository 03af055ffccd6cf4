"""The facts of a run that exists only in tests."""

from stylefinetune.tracking.run_facts import RunFacts

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
)
