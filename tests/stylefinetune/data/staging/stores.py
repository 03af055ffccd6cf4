"""Shards in an object store, and what a test changes there."""

from tests.stores import open_store


def upload(root, url):
    """Copy a DIR's index, mean and tars to a store; return the URL."""
    fs, base = open_store(url)
    for path in [root / "index.parquet", root / "mean.npy", *root.glob("*/*.tar")]:
        fs.pipe_file(f"{base}/{path.relative_to(root).as_posix()}", path.read_bytes())
    return url


def change(url, name, content):
    """Replace an object, or remove it."""
    fs, base = open_store(url)
    if content is None:
        fs.rm_file(f"{base}/{name}")
    else:
        fs.pipe_file(f"{base}/{name}", content)
