"""Text from outside, as it may be shown or written down: without what logs somebody in, and without what steers a terminal."""

from __future__ import annotations

import re

#: user and password before a host; one slash is left of two where the text was a path
_LOGIN = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+:/{1,2})[^\s/]+@")
_QUERY = re.compile(r"\b(https?:/{1,2}[^\s?'\"<>]+\?)[^\s'\"<>)]+")
_TOKEN = re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{16,}\b")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_credentials(text: str) -> str:
    """The text with the passwords of addresses, their queries and tokens of the Hugging Face hub as `***`."""
    text = _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", text))
    return _TOKEN.sub(r"\1***", text)


def holds_credentials(text: str) -> bool:
    return bool(_LOGIN.search(text) or _TOKEN.search(text))


def message(text: str) -> str:
    """A message that may quote anything: without credentials, and with control characters spelled out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], without_credentials(text))
