"""A model by its hub id: one set of weights is fetched, no pickles, no code, no copies for other programs."""

import os
import subprocess
import sys

import pytest

from hgsp_core.checkpoint.read import read_config
from hgsp_core.checkpoint.shards import read_tensors
from hgsp_core.checkpoint.write import write_checkpoint
from tests.helpers.command import MODEL
from tests.helpers.hub import running_hub

LOCATE = """
import sys
from hgsp_core.errors import HgspError
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import open_model
try:
    print(open_model(ModelPart(path="acme/model")).directory)
except HgspError as error:
    print("refused:", error)
"""
OTHERS = (
    "consolidated.safetensors",
    "consolidated.00.pth",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "original/consolidated.safetensors",
    "original/params.json",
    "original/tokenizer.model",
    "fp16/model.safetensors",
    "onnx/model.onnx",
    "model-q8_0.gguf",
    "modeling_own.py",
)


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


def fetched(hub, folder, tmp_path) -> tuple[str, set[str]]:
    """What is said of the folder's files as a repository, and which of them were downloaded."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {"config.json": b"{}"}
    hub.repositories["acme/model"] = files | dict.fromkeys(OTHERS, b"not to be read")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), **hub.environment()}
    done = subprocess.run([sys.executable, "-c", LOCATE], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(hub.downloads)


def test_of_a_single_file_repository_the_model_alone_is_fetched(hub, tmp_path):
    said, downloads = fetched(hub, MODEL, tmp_path)
    assert "refused" not in said
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= downloads
    assert not downloads & {*OTHERS}


def test_of_a_sharded_repository_the_files_of_the_index_are_fetched(hub, tmp_path):
    write_checkpoint(read_tensors(MODEL), read_config(MODEL), MODEL, tmp_path / "sharded", max_shard_size=4_000_000)
    shards = {path.name for path in (tmp_path / "sharded").glob("*.safetensors")}
    said, downloads = fetched(hub, tmp_path / "sharded", tmp_path)
    assert "refused" not in said
    assert len(shards) > 1
    assert shards <= downloads
    assert not downloads & {*OTHERS}


def test_a_repository_without_safetensors_is_told_so(hub, tmp_path):
    said, downloads = fetched(hub, None, tmp_path)
    assert "refused: model.path: the hub's 'acme/model' has no model.safetensors" in said
    assert downloads == {"config.json"}
