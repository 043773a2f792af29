"""An export that cannot be written, published or verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, first_few, first_line


class ExportError(HgspError):
    """A checkpoint that cannot be exported as asked."""

    @classmethod
    def bad_plan(cls, path: Path, error: Exception) -> ExportError:
        return cls(f"'{path}' cannot be read ({type(error).__name__}: {error}). Give the model's directory instead.")

    @classmethod
    def other_plan(cls, path: Path) -> ExportError:
        return cls(
            f"'{path}' is for another model: its sizes differ from the model next to it. "
            "Give the model's own directory instead, which needs no plan."
        )


class VerifyError(HgspError):
    """A directory in which there is nothing to verify."""

    @classmethod
    def nothing(cls, path: Path) -> VerifyError:
        return cls(
            f"'{path}' contains nothing to verify: no config.json, no .gguf file and no hgsp.json, and it is not a run directory. "
            "Give the directory of a model or a run."
        )

    @classmethod
    def bad_report(cls, path: Path, error: Exception) -> VerifyError:
        return cls(f"'{path}' cannot be read as a run's report ({error}). Give the directory of its model instead.")


class HubError(HgspError):
    """A checkpoint that could not be uploaded to the hub. The local one is complete."""

    @classmethod
    def offline(cls, repo: str) -> HubError:
        return cls(f"push_to_hub: '{repo}' cannot be reached: HF_HUB_OFFLINE is set. Unset it, or remove push_to_hub.")

    @classmethod
    def no_token(cls, repo: str) -> HubError:
        return cls(
            f"push_to_hub: there is no token to write '{repo}' with. Log in (hf auth login), set HF_TOKEN, or remove push_to_hub."
        )

    @classmethod
    def not_empty(cls, repo: str, there: Sequence[str], directory: Path) -> HubError:
        fault = f"already contains files ({first_few(there)}), which are not overwritten"
        return cls(f"push_to_hub: '{repo}' {fault}. {cls._kept(directory)}")

    @classmethod
    def refused(cls, repo: str, status: int | None, reason: str, directory: Path) -> HubError:
        known: dict[int | None, str] = {401: "the token is not valid", 403: "the token has no write access"}
        why = known.get(status, reason.strip().partition("\n")[0])
        return cls(f"push_to_hub: the hub refused '{repo}' ({status}: {why}). {cls._kept(directory)}")

    @classmethod
    def failed(cls, repo: str, error: Exception, directory: Path) -> HubError:
        reason = first_line(error).rstrip(".")
        return cls(f"push_to_hub: '{repo}' could not be written: {reason}. {cls._kept(directory)}")

    @staticmethod
    def _kept(directory: Path) -> str:
        return f"The result is kept in '{directory}'; upload it by hand with: hf upload ORG/NAME {directory}"
