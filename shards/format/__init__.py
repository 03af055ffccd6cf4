"""The formats on disk; `stylefinetune` imports only this sub-package of `shards`."""

from shards.counted import counted
from shards.errors import ShardsError, first_line, joined_lines, shorten
from shards.files import sync_path
from shards.location import cache_folder, object_store_url
from shards.object_store import ObjectStore, StoredObject

__all__ = [
    "ObjectStore",
    "ShardsError",
    "StoredObject",
    "cache_folder",
    "counted",
    "first_line",
    "joined_lines",
    "object_store_url",
    "shorten",
    "sync_path",
]
