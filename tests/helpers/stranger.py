"""What somebody does with a pruned checkpoint who has transformers and peft, and has never heard of hgsp.

`python stranger.py THREADS WORK CASE...`: each case is a folder with the checkpoint `pruned/` and `expected.safetensors`: ids
[2, 12] without token 0, the logits that were in memory when it was written, and, of the masked original in float32, what it
generates greedily and by beams. Prints `ok CASE` for each; an assertion fails otherwise.
"""

import importlib.util
import os
import sys
from pathlib import Path

THREADS, WORK, CASES = int(sys.argv[1]), Path(sys.argv[2]), [Path(case) for case in sys.argv[3:]]
os.environ["HF_MODULES_CACHE"] = str(WORK / "modules")
assert importlib.util.find_spec("hgsp_core") is None

import peft  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM  # noqa: E402

torch.set_num_threads(THREADS)
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(directory, **options):
    """The model; the flag only where code lies in the directory."""
    own_code = {"trust_remote_code": True} if (directory / "modeling_hgsp.py").exists() else {}
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype="auto", output_loading_info=True, **own_code, **options
    )
    assert not info["missing_keys"], info
    assert not info["mismatched_keys"], info
    assert not info["unexpected_keys"], info
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    return model(ids, use_cache=False).logits


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def reloads_with_difference_zero(directory, ids, expected):
    model = load(directory)
    assert torch.equal(logits(model, ids), expected["logits"])
    assert model.dtype == expected["logits"].dtype
    own_code = {"trust_remote_code": True} if (directory / "modeling_hgsp.py").exists() else {}
    hidden = AutoModel.from_pretrained(directory, dtype="auto", **own_code)(ids).last_hidden_state
    assert torch.equal(model.lm_head(hidden), model(ids).logits)


def saves_and_reloads_again(directory, ids, expected):
    again = WORK / "again" / directory.parent.name
    load(directory).save_pretrained(again)
    assert torch.equal(logits(load(again), ids), expected["logits"])


def generates_alike_with_every_cache_and_with_padding(directory, ids, expected):
    model = load(directory)
    for cache in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids, **GREEDY, **cache), expected["greedy"]), cache
        model._cache = None  # a static cache stays with the model, in the size of the last batch
        short = ids[1:, :7]
        padded = torch.cat([ids[:1], torch.cat([torch.zeros(1, 5, dtype=torch.long), short], dim=1)])
        both = model.generate(padded, attention_mask=(padded != 0).long(), **GREEDY, **cache)
        assert torch.equal(both[0], expected["greedy"][0]), cache
        assert torch.equal(both[1, 12:], model.generate(short, **GREEDY)[0, 7:]), cache
    assert torch.equal(model.generate(ids, num_beams=3, **GREEDY), expected["beams"])


def eager_and_sdpa_agree(directory, ids, expected):
    eager, sdpa = (load(directory, attn_implementation=name) for name in ("eager", "sdpa"))
    close(logits(eager, ids), logits(sdpa, ids))
    sdpa.set_attn_implementation("eager")
    assert torch.equal(logits(sdpa, ids), logits(eager, ids))


def runs_offloaded_to_cpu_and_disk(directory, ids, expected):
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    folder = WORK / "offload" / directory.parent.name
    model = load(directory, device_map="auto", max_memory={"cpu": int(0.7 * size)}, offload_folder=folder)
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}, model.hf_device_map
    assert torch.equal(logits(model, ids), expected["logits"])


def trains_with_gradient_checkpointing(directory, ids, expected):
    gradients = []
    for checkpointing in (False, True):
        model = load(directory).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(gradient is not None and gradient.any() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        close(gradient, gradients[1][name])


def takes_lora(directory, ids, expected):
    model = peft.get_peft_model(load(directory), peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        losses.append(model(ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    trained = logits(model.eval(), ids)
    adapter, merged = (WORK / name / directory.parent.name for name in ("adapter", "merged"))
    model.save_pretrained(adapter)
    reloaded = peft.PeftModel.from_pretrained(load(directory), adapter).eval()
    assert torch.equal(logits(reloaded, ids), trained)
    whole = reloaded.merge_and_unload()
    close(logits(whole, ids), trained, 1e-3)
    whole.save_pretrained(merged)
    assert torch.equal(logits(load(merged), ids), logits(whole, ids))


#: of half precision only what does not compare roundings of different orders of summation
ALWAYS = (reloads_with_difference_zero, saves_and_reloads_again, runs_offloaded_to_cpu_and_disk)
IN_FLOAT32 = (
    generates_alike_with_every_cache_and_with_padding,
    eager_and_sdpa_agree,
    trains_with_gradient_checkpointing,
    takes_lora,
)

for case in CASES:
    expected = load_file(case / "expected.safetensors")
    checks = (*ALWAYS, *IN_FLOAT32) if "greedy" in expected else ALWAYS
    for check in checks:
        check(case / "pruned", expected["ids"], expected)
    print("ok", case.name, flush=True)
assert not [name for name in sys.modules if name.startswith("hgsp")]
