"""docs/write-a-plugin.md, followed to the letter: its files are written, its commands run, and their output is as shown.

Files are the fenced blocks below a line that is only a path in backticks; commands are the `bash` blocks; a `text` block is
part of what the commands before it print. Two things differ from a reader's terminal: `pip install` has the options of PIP (no
network, and into a folder of the test), and that folder is on PYTHONPATH.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import ROOT

PAGE = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
PIP = "--quiet --no-deps --no-build-isolation --upgrade --target site"
#: path in backticks (or none), language, content
BLOCKS = re.findall(r"(?:^`([^`\n]+)`\n\n)?^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs a line of the page and returns what it prints; the directory holds `models/`."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "models").symlink_to(ROOT / "models", target_is_directory=True)
    binaries = Path(sys.executable).parent
    env = {
        "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HGSP_CACHE": str(folder / "store"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(line):
        line = line.replace("pip install", f"pip install {PIP}")
        done = subprocess.run(
            line, shell=True, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    run.folder = folder
    return run


def test_the_page_works_as_it_stands(shell):
    printed = ""
    for path, language, content in BLOCKS:
        if language == "bash":
            printed = "".join(shell(line) for line in content.splitlines())
        elif language == "text":
            assert content.strip() in printed, f"The page shows:\n{content}\nprinted was:\n{printed}"
        else:
            assert path, f"a block of {language} without its path:\n{content}"
            file = shell.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    report = json.loads((shell.folder / "results" / "written" / "report.json").read_text())
    assert report["versions"]["hgsp-written"] == "0.1.0"
    assert report["after"]["perplexity"]["pydoc"] < 100


def test_every_block_of_the_page_is_read():
    assert len(BLOCKS) == PAGE.count("\n```") / 2
    assert sum(language == "bash" for _, language, _ in BLOCKS) == 9
    assert not re.search(r"\.\./\.\./|/home/|/root/", PAGE)
