"""`hgsp` in this process, as fixtures: what it says, and what it refuses."""

import sys

import pytest

from hgsp_core.cli import main

pytest.register_assert_rewrite("tests.helpers")


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Run `hgsp ARGUMENTS` in an empty directory; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HGSP_CACHE", str(tmp_path.parent / f"{tmp_path.name}-store"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hgsp", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return (stop.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(said, tmp_path):
    """The one message of a command that must refuse and write nothing."""

    def refuse(*arguments):
        code, out, err = said(*arguments)
        assert (code, out) == (2, ""), err
        assert "Traceback" not in err
        assert not list(tmp_path.iterdir())
        return " ".join(err.split())

    return refuse
