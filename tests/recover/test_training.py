"""LoRA and full finetuning of pruned checkpoints: what is trained, what is left alone, and that the sums are right."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import read_config
from hgsp_core.checkpoint.shards import read_tensors
from hgsp_core.plugin import registry
from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.lora import LoRA
from hgsp_core.recover.losses import divergence, held_out_loss
from hgsp_core.recover.rows import IGNORED, Row
from hgsp_core.recover.training_params import LoRAParams
from tests.helpers.architectures import ARCHITECTURES, LLAMA
from tests.helpers.checkpoints import PLANS, logits, prune
from tests.helpers.command import ROOT

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
#: 20 rows, 19 of them trained on: the last batch of each epoch is not full
SETTINGS = {
    "dataset": "pydoc", "samples": 20, "epochs": 2, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-2,
    "records": {"seq_len": 16}, "schedule": {"check_every": 2},
}  # fmt: skip


def pruned(folder, kind="llama", plan="everything", dtype=torch.float32, **config):
    """A non-uniform pruned checkpoint of a tiny model with a real tokenizer."""
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER:
        shutil.copy(ROOT / "models" / "pydoc-llama" / name, folder)
    return prune(folder, kind, PLANS[plan], dtype=dtype, vocab_size=1024, **config).directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return pruned(tmp_path_factory.mktemp("model"))


def recover(checkpoint, destination, use="lora", job=None, **settings):
    """What the recoverer tells; keys with two underscores reach into a part."""
    given = json.loads(json.dumps(SETTINGS))
    for key, value in settings.items():
        part, _, name = key.rpartition("__")
        (given.setdefault(part, {}) if part else given)[name] = value
    config = read_config(checkpoint)
    family = ARCHITECTURES[config.get("base_model_type") or config["model_type"]]
    job = replace(
        job or RecoverJob(checkpoint, destination, None, 0, family), checkpoint=checkpoint, destination=destination
    )
    return registry.build(Recoverer, use, given)(job)


def weights(directory):
    return dict(read_tensors(directory))


def is_target(name):
    return name.endswith("_proj.weight")


@pytest.mark.parametrize("use", ["lora", "full"])
@pytest.mark.parametrize(("kind", "dtype"), [("llama", "float32"), ("llama-tied", "bfloat16"), ("qwen3", "float16")])
def test_a_recovered_checkpoint_has_the_format_of_the_pruned_one(use, kind, dtype, tmp_path):
    before = pruned(tmp_path / "a", kind, dtype=getattr(torch, dtype))
    told = recover(before, tmp_path / "b", use, epochs=1)
    old, new = weights(before), weights(tmp_path / "b")
    assert {n: (t.shape, t.dtype) for n, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
    assert read_config(before) == read_config(tmp_path / "b")
    files = {path.name for path in Path(before).iterdir()}
    assert files == {path.name for path in (tmp_path / "b").iterdir()} >= {"modeling_hgsp.py", *TOKENIZER}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    if use == "lora":
        assert changed == {name for name in old if is_target(name)}  # every linear that is left, and nothing else
    else:
        assert changed >= {name for name in old if is_target(name)} | {"model.embed_tokens.weight"}
    assert told["steps"] == 3
    assert told["held_out_rows"] == 1
    assert told["learned_tokens"] == 19 * 15


def test_training_lowers_the_held_out_perplexity_and_tells_it(checkpoint, tmp_path):
    told = recover(checkpoint, tmp_path / "out", samples=60, epochs=3, records__held_out=0.2)
    assert told["held_out_perplexity"]["after"] < 0.8 * told["held_out_perplexity"]["before"]
    assert min(told["held_out_loss"].values()) == pytest.approx(
        torch.tensor(told["held_out_perplexity"]["after"]).log().item(), rel=1e-4
    )


def test_merged_logits_equal_those_of_the_adapter(checkpoint):
    method = LoRA(LoRAParams(**SETTINGS))
    torch.manual_seed(0)
    adapted = method.attach(load_model(checkpoint)[0], RecoverJob(checkpoint, checkpoint, None, 0, LLAMA))
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with_adapter, without = logits(adapted.eval()), logits(load_model(checkpoint)[0])
    merged = logits(method.detach(adapted))
    assert (with_adapter - without).abs().max() > 0.1
    torch.testing.assert_close(merged, with_adapter, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"micro_batch_size": 1}, {"schedule__gradient_checkpointing": True}])
def test_micro_batches_and_gradient_checkpointing_change_cost_and_not_the_result(settings, checkpoint, tmp_path):
    """Rows of different lengths: a mean of the means of micro-batches would differ."""
    data = tmp_path / "data.jsonl"
    lines = [{"instruction": "Repeat." + " Really." * (i % 5), "output": "yes " * (1 + 3 * i)} for i in range(10)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = dict(dataset=str(data), samples=None, dropout=0, batch_size=8, micro_batch_size=8, records__seq_len=128)
    recover(checkpoint, tmp_path / "one", **common)
    recover(checkpoint, tmp_path / "many", **common | settings)
    before, one, many = weights(checkpoint), weights(tmp_path / "one"), weights(tmp_path / "many")
    for name in filter(is_target, before):
        assert (one[name] - before[name]).abs().max() > 1e-3
        torch.testing.assert_close(one[name], many[name], atol=2e-5, rtol=0)


@pytest.mark.parametrize("use", ["lora", "full"])
def test_bfloat16_products_train_weights_that_stay_float32(use, checkpoint, tmp_path):
    told = recover(checkpoint, tmp_path / "out", use, samples=60, schedule__precision="bfloat16")
    assert told["held_out_perplexity"]["after"] < 0.9 * told["held_out_perplexity"]["before"]
    new = weights(tmp_path / "out")
    assert all(tensor.dtype == torch.float32 for tensor in new.values())
    changed = torch.cat([new[name].flatten() for name in filter(is_target, new)])
    assert (changed != changed.bfloat16().float()).float().mean() > 0.9  # not rounded on the way


def test_packing_takes_fewer_rows_for_the_same_tokens(checkpoint, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(json.dumps({"instruction": "Hi.", "output": "Hello. " * (1 + i % 3)}) + "\n" for i in range(24))
    )
    common = dict(dataset=str(data), samples=None, records__seq_len=300)
    apart, together = (recover(checkpoint, tmp_path / str(p), records__packing=p, **common) for p in (False, True))
    assert together["learned_tokens"] == apart["learned_tokens"]
    assert together["rows"] <= apart["rows"] / 2
    assert together["held_out_rows"] == apart["held_out_rows"]
    assert together["held_out_perplexity"]["before"] == apart["held_out_perplexity"]["before"]


def test_divergence_is_the_kl_of_the_dense_models_probabilities():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[1, 2, IGNORED, 3, IGNORED], [IGNORED, IGNORED, 4, 5, 6]])
    expected = 0.0
    for row in range(2):
        for token in range(1, 5):
            if labels[row, token] != IGNORED:
                p, q = (x[row, token - 1].softmax(0) for x in (theirs, ours))
                expected += sum(float(p[v] * (p[v].log() - q[v].log())) for v in range(7))
    assert divergence(ours, theirs, labels).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(theirs, theirs, labels).item() == pytest.approx(0, abs=1e-6)


def test_held_out_loss_is_the_mean_over_tokens_whatever_the_batch(checkpoint):
    model = load_model(checkpoint)[0]
    rows = [
        Row(list(range(5, 5 + n)), [IGNORED] * (n // 2) + list(range(5 + n // 2, 5 + n)), list(range(n)))
        for n in (4, 9, 6)
    ]
    total = count = 0
    for row in rows:
        p = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for i, label in enumerate(row.labels):
            if label != IGNORED:
                total, count = total - p[i - 1, label].item(), count + 1
    for size in (1, 2, 3):
        assert held_out_loss(model, rows, size) == pytest.approx(total / count, rel=1e-5)


def test_distillation_brings_the_pruned_model_nearer_to_the_dense_one(tmp_path):
    before, dense = pruned(tmp_path / "a", plan="sizes differ"), pruned(tmp_path / "d", plan="last attention gone")
    ids = torch.randint(1, 1024, (4, 16), generator=torch.Generator().manual_seed(0))

    def distance(directory):
        return divergence(logits(load_model(directory)[0], ids), logits(load_model(dense)[0], ids), ids).item()

    job = RecoverJob(before, before, None, 0, LLAMA, dense=dense)
    recover(before, tmp_path / "out", job=job, distill=True, samples=200, epochs=4)
    assert distance(tmp_path / "out") < 0.8 * distance(before)


def test_training_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best_weights(checkpoint, tmp_path):
    told = recover(
        checkpoint, tmp_path / "out", samples=100, epochs=8, learning_rate=0.3, records__held_out=0.2,
        schedule__check_every=1, schedule__patience=2, schedule__warmup=0.5,
    )  # fmt: skip
    losses = {int(step): loss for step, loss in told["held_out_loss"].items()}
    best = min(losses, key=losses.get)
    assert told["best_step"] == best
    assert told["steps"] == best + 2 < told["steps_planned"]
    assert told["held_out_perplexity"]["after"] == pytest.approx(torch.tensor(losses[best]).exp().item(), rel=1e-5)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("step", [3, 5])
def test_a_training_that_was_broken_off_goes_on_from_its_checkpoint_and_ends_the_same(step, checkpoint, tmp_path):
    """In the first epoch and in the second; one checkpoint is half written, as a kill leaves it."""
    recover(checkpoint, tmp_path / "whole")
    steps = []

    def breaks_off(done, total):
        if done == step:
            raise Interrupted

    job = RecoverJob(checkpoint, tmp_path, None, 0, LLAMA, work=tmp_path / "work")
    with pytest.raises(Interrupted):
        recover(checkpoint, tmp_path / "again", job=replace(job, progress=breaks_off))
    torn = tmp_path / "work" / f"checkpoint-{step}"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half of it")
    recover(checkpoint, tmp_path / "again", job=replace(job, progress=lambda done, total: steps.append(done)))
    assert steps == list(range(step, 7))  # the checkpoint of the step before was found
    whole, again = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not (tmp_path / ".whole.training").exists()


def test_a_training_goes_on_from_an_adapter_and_refuses_one_of_another_model(checkpoint, tmp_path):
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    torch.manual_seed(0)
    trained = peft.get_peft_model(load_model(checkpoint)[0], config)
    trained.save_pretrained(tmp_path / "adapter")
    size = sum(p.numel() for n, p in trained.named_parameters() if "lora_" in n)
    told = recover(checkpoint, tmp_path / "on", adapter=str(tmp_path / "adapter"), learning_rate=1e-12)
    merged, on = dict(trained.merge_and_unload().named_parameters()), weights(tmp_path / "on")
    for name in filter(is_target, on):
        torch.testing.assert_close(on[name], merged[name].data, atol=1e-5, rtol=1e-5)
    assert told["trainable_parameters"] == size

    sizes = pruned(tmp_path / "a", plan="sizes differ")
    with pytest.raises(
        RecoverError,
        match=r"trained on another model: model.layers.0.mlp.down_proj had 20 inputs there and has 48 here",
    ):
        recover(sizes, tmp_path / "never", adapter=str(tmp_path / "adapter"))
    of_attention = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    peft.get_peft_model(load_model(sizes)[0], of_attention).save_pretrained(tmp_path / "other")
    with pytest.raises(
        RecoverError, match=r"trained on another model: model.layers.0.self_attn.q_proj is not in this one"
    ):
        recover(checkpoint, tmp_path / "never", adapter=str(tmp_path / "other"))
    with pytest.raises(RecoverError, match="is not a LoRA adapter"):
        recover(checkpoint, tmp_path / "never", adapter=str(tmp_path))
    assert not (tmp_path / "never").exists()


def test_what_cannot_be_trained_is_refused(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(RecoverError, match="batch_size: 6 rows cannot be split into parts of 4 rows"):
        recover(checkpoint, out, batch_size=6)
    with pytest.raises(RecoverError, match="distill needs the dense model"):
        recover(checkpoint, out, distill=True)
    dense = prune(tmp_path, "llama", {}).directory  # 97 tokens
    with pytest.raises(RecoverError, match="vocabulary of 97 tokens, the pruned model one of 1024"):
        recover(checkpoint, out, distill=True, job=RecoverJob(out, out, None, 0, LLAMA, dense=Path(dense)))
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"instruction": "x", "output": "y"}) + "\n")
    with pytest.raises(RecoverError, match=r"gives 1 row.* at least 2"):
        recover(checkpoint, out, dataset=str(short), samples=None, records__seq_len=200)
    with pytest.raises(RecoverError, match="loss is NaN or infinite in step 3"):
        recover(checkpoint, out, alpha=1e16, job=RecoverJob(out, out, None, 0, LLAMA, work=tmp_path / "work"))
    assert not (tmp_path / "work").exists()
    monkeypatch.setattr("hgsp_core.recover.training.free_bytes", lambda device: 1000)
    with pytest.raises(RecoverError, match="weights cannot be streamed"):
        recover(checkpoint, out)
    assert not out.exists()
