"""Uploads an exported folder to the Hugging Face hub."""

from pathlib import Path

from shards.format import joined_lines
from stylefinetune.errors import UserError


def push_folder(folder: Path, repository: str) -> str:
    """Upload the folder to a repository of models, which is created as a private one if there is none.

    The token is that of `hf auth login`, or HF_TOKEN.

    Returns:
        The URL of the commit.

    Raises:
        UserError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 -- of an extra, and takes a second

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Export of stylefinetune")
    except (OSError, ValueError) as error:  # errors of HTTP are OSErrors, a wrong name is a ValueError
        raise _refused(folder, repository, error) from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "huggingface_hub", "requests")):
            raise
        raise _refused(folder, repository, error) from error
    return str(commit)


def _refused(folder: Path, repository: str, error: Exception) -> UserError:
    return UserError(
        f"--push {repository}: the hub refuses it or can't be reached ({joined_lines(error)}); {folder} is complete, "
        f"so it can be uploaded later: hf upload {repository} {folder}"
    )
