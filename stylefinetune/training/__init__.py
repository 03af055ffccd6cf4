"""Setup, evaluation and exit of a training run; the loop is in `stylefinetune.train`."""
