"""With hgsp_core imported, transformers loads a pruned model without trust_remote_code, whatever was imported first."""

import subprocess
import sys

import pytest

from tests.helpers.checkpoints import PLANS, prune

LOAD = """
directory = sys.argv[1]
config = AutoConfig.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory)
base = AutoModel.from_pretrained(directory)
names = [type(x).__module__ + "." + type(x).__name__ for x in (config, model, base)]
assert names == ["hgsp_core.checkpoint.modeling_hgsp.Hgsp" + x for x in ("Config", "ForCausalLM", "Model")], names
assert AutoConfig.for_model("hgsp", base_model_type="llama").vocab_size == 32000
print("loaded")
"""
HGSP_FIRST = f"""
import sys
import hgsp_core
assert not {{"torch", "transformers"}} & set(sys.modules)
from transformers import LlamaForCausalLM  # imports the table of configs in the middle of other imports
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
assert "hgsp_core.checkpoint.modeling_hgsp" not in sys.modules
{LOAD}
"""
TRANSFORMERS_FIRST = f"""
import sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
import hgsp_core
assert "hgsp_core.checkpoint.modeling_hgsp" not in sys.modules
{LOAD}
"""


@pytest.mark.parametrize("script", [HGSP_FIRST, TRANSFORMERS_FIRST], ids=["hgsp first", "transformers first"])
def test_loads_without_trust_remote_code(tmp_path, script):
    directory = prune(tmp_path, "llama", PLANS["everything"]).directory
    result = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.strip() == "loaded", result.stderr
