"""Writes numbers with the thing that they count."""


def counted(count: int, noun: str) -> str:
    """Return a number and a regular noun in its singular or plural: 1 picture, 2,000 pictures, 3 classes."""
    plural = f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
