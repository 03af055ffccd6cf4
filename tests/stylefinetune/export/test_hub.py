import pytest

from stylefinetune.errors import UserError
from stylefinetune.export.hub import push_folder

# The hub itself is not asked; these tests stand in for its client.


class Api:
    """Records what a client of the hub is asked for."""

    def __init__(self, calls):
        self.calls = calls

    def create_repo(self, repository, **options):
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        return "https://example.org/me/net/commit/1"


def test_the_folder_is_uploaded_to_a_private_repository(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Api(calls))
    assert push_folder(tmp_path, "me/net") == "https://example.org/me/net/commit/1"
    create, upload = calls
    assert create == ("create", "me/net", {"private": True, "exist_ok": True})
    assert (upload[1]["folder_path"], upload[1]["repo_id"]) == (tmp_path, "me/net")


@pytest.mark.parametrize("repository", ["me/net", "a b"])
def test_a_hub_that_refuses_is_one_line(monkeypatch, tmp_path, repository):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_x"))
    with pytest.raises(UserError, match=rf"--push {repository}: the hub refuses .*; .* is complete") as raised:
        push_folder(tmp_path, repository)
    assert "\n" not in str(raised.value)
