"""`push_to_hub`: every byte arrives in one commit; whatever goes wrong is one message, and the local result stays."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.helpers.command import MODEL, hgsp
from tests.helpers.hub import running_hub

RECIPE = {
    "model": {"path": str(MODEL)},
    "calibrate": {"dataset": "pydoc", "samples": 2, "seq_len": 16},
    "score": {"use": "magnitude"},
    "reconstruct": {"use": "none"},
    "allocate": {"use": "uniform", "with": {"ratio": 0.2}},
    "export": [{"use": "huggingface", "with": {"push_to_hub": "acme/smaller", "private": True}}],
    "output": "result",
}
PUSH = """
import sys
from pathlib import Path
from hgsp_core.export.hub import push
from hgsp_core.export.errors import HubError
try:
    print(push(Path(sys.argv[1]), "acme/smaller", False))
except HubError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """A folder with a large and a small file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(range(256)) * 400)
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def push(folder, environment):
    import os

    environment = {**os.environ, "HF_HOME": str(folder.parent / "hf"), **environment}
    environment = {key: value for key, value in environment.items() if value}
    done = subprocess.run([sys.executable, "-c", PUSH, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_pushes_what_it_wrote_byte_for_byte(hub, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    done = hgsp("run", "recipe.yaml", cwd=tmp_path, **hub.environment(HF_HOME=str(tmp_path / "hf")))
    assert done.returncode == 0, done.stderr
    written = files(tmp_path / "result" / "model")
    assert hub.repositories["acme/smaller"] == {".gitattributes": b"", **written}
    assert {"README.md", "config.json", "model.safetensors", "hgsp.json"} <= written.keys()
    assert hub.private == {"acme/smaller"}
    assert hub.commits == 1
    assert f"Published: {hub.address}/acme/smaller" in done.stderr


def test_a_refused_push_is_one_message_and_the_run_is_kept(hub, tmp_path):
    hub.may_write = False
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    done = hgsp("run", "recipe.yaml", "--quiet", cwd=tmp_path, **hub.environment(HF_HOME=str(tmp_path / "hf")))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "Error: push_to_hub: the hub refused 'acme/smaller' (403: the token has no write access)"
    )
    assert "kept in 'result/model'" in done.stderr
    assert "hf upload ORG/NAME result/model" in done.stderr
    assert (tmp_path / "result" / "model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "result" / "report.json").read_text())["exports"] == ["model"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HF_TOKEN": ""}, "there is no token to write 'acme/smaller' with. Log in (hf auth login)"),
        ({"HF_HUB_OFFLINE": "1"}, "cannot be reached: HF_HUB_OFFLINE is set"),
        ({"HF_TOKEN": "hf_of_somebody_else"}, "(401: the token is not valid)"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "'acme/smaller' could not be written: "),
    ],
    ids=["no token", "offline", "wrong token", "no network"],
)
def test_what_stands_in_the_way_is_said(hub, folder, changes, message):
    before = files(folder)
    answer = push(folder, hub.environment(**changes))
    assert answer.startswith("refused: push_to_hub: ")
    assert message in answer
    assert "\n" not in answer
    assert files(folder) == before
    assert hub.commits == 0


def test_a_repository_with_files_is_not_overwritten(hub, folder):
    hub.repositories["acme/smaller"] = {".gitattributes": b"", "README.md": b"by hand"}
    assert "already contains files (README.md), which are not overwritten" in push(folder, hub.environment())
    assert hub.repositories["acme/smaller"]["README.md"] == b"by hand"
    assert hub.commits == 0


def test_an_upload_that_breaks_off_commits_nothing_and_can_be_repeated(hub, folder):
    hub.breaks_uploads = True
    assert "'acme/smaller' could not be written: " in push(folder, hub.environment())
    assert hub.commits == 0
    hub.breaks_uploads = False
    assert push(folder, hub.environment()) == f"{hub.address}/acme/smaller"
    assert hub.repositories["acme/smaller"] == {".gitattributes": b"", **files(folder)}


def test_a_run_that_could_not_push_does_not_start(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    done = hgsp("run", "recipe.yaml", "--quiet", cwd=tmp_path, HF_TOKEN="", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("params", ["{push_to_hub: no-slash}", "{private: true}"])
def test_a_push_that_means_nothing_is_refused(tmp_path, params):
    recipe = {**RECIPE, "export": [{"use": "huggingface", "with": yaml.safe_load(params)}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = hgsp("recipe", "validate", "recipe.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "export.0.with" in done.stderr
