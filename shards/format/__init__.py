"""The formats on disk; `stylefinetune` imports only this sub-package of `shards`."""

from shards.errors import ShardsError
from shards.files import sync_path

__all__ = ["ShardsError", "sync_path"]
