"""Upload of a finished checkpoint directory to the Hugging Face hub. Nothing is overwritten there or lost here."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.errors import without_credentials
from hgsp_core.export.errors import HubError

#: files that the hub creates in a new repository
_OF_THE_HUB = {".gitattributes"}


def check_hub(repo: str) -> None:
    """Check, without network, that a push is possible. Raises HubError: no token, or offline mode."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise HubError.offline(repo)
    if not get_token():
        raise HubError.no_token(repo)


def push(directory: Path, repo: str, private: bool) -> str:
    """Upload every file of a directory in one commit. Returns the address of the repository.

    Args:
        repo: `namespace/name`; made where it does not exist, and otherwise empty.
        private: of a repository that is made now.

    Raises:
        HubError: no access, no network, or files there already. What was uploaded by then is in no commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub(repo)
    api = HfApi(library_name="hgsp-core")
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        there = sorted(set(api.list_repo_files(repo)) - _OF_THE_HUB)
        if there:
            raise HubError.not_empty(repo, there, directory)
        api.upload_folder(repo_id=repo, folder_path=directory, commit_message="Upload pruned model")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise HubError.refused(repo, status, error.server_message or str(error), directory) from error
    except HubError:
        raise
    except Exception as error:
        raise HubError.failed(repo, error, directory) from error
    return without_credentials(str(url))
