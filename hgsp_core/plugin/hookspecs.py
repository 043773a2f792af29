"""The ten hooks.

A plugin implements the ones it needs in one module and names that module in its entry points:

    [project.entry-points.hgsp]
    my-plugin = "my_plugin"

Each hook takes nothing and returns frozen data; registering does no work and imports no torch.
A method's class is imported only when a recipe uses it; it is built with its params and called with one job.
"""

from __future__ import annotations

import pluggy

from hgsp_core.model.architecture import Architecture
from hgsp_core.plugin.method import Method

PROJECT = "hgsp"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hgsp_architectures() -> list[Architecture]:
    """Model families that can be pruned. Data only.

    Example:
        from hgsp_core import Architecture, Axis, Slice, hookimpl

        @hookimpl
        def hgsp_architectures():
            return [Architecture(model_type="llama", layers="model.layers", embed="model.embed_tokens", norm="model.norm",
                head="lm_head", axes=(
                    Axis("attention", units="num_key_value_heads", scales=("num_attention_heads",), block="self_attn",
                         fixed=("input_layernorm",), cache=("self_attn.k_proj", "self_attn.v_proj"), slices=(
                             Slice("self_attn.q_proj", 0), Slice("self_attn.k_proj", 0), Slice("self_attn.v_proj", 0),
                             Slice("self_attn.o_proj", 1))),
                    Axis("mlp", units="intermediate_size", block="mlp", fixed=("post_attention_layernorm",), slices=(
                             Slice("mlp.gate_proj", 0), Slice("mlp.up_proj", 0), Slice("mlp.down_proj", 1)))))]
    """


@hookspec
def hgsp_scorers() -> list[Method]:
    """Importance of units: `ScoreJob -> Scores`. The class lists the statistics it needs in `collectors`.

    Example:
        @hookimpl
        def hgsp_scorers():
            return [Method("first", "my_plugin.first:First", summary="keeps the first units")]

        class First(Scorer):                       # my_plugin/first.py
            collectors = ()
            def __call__(self, job):
                ones = [{name: np.arange(b.units, 0, -1) for name, b in l.blocks.items()} for l in job.layout.layers]
                return Scores.of(job.layout, ones)
    """


@hookspec
def hgsp_priors() -> list[Method]:
    """Importance of layers and blocks: `PriorJob -> Priors`; `collectors` as for a scorer.

    Example:
        @hookimpl
        def hgsp_priors():
            return [Method("flat", "my_plugin.flat:Flat", summary="every layer alike")]

        class Flat(Prior):
            collectors = ()
            def __call__(self, job):
                return Priors(layer=np.ones(len(job.layout.layers)), blocks={})
    """


@hookspec
def hgsp_normalizers() -> list[Method]:
    """Balance of scores between layers: `NormalizeJob -> Scores`; chained in the order of the recipe.

    Example:
        @hookimpl
        def hgsp_normalizers():
            return [Method("rank", "my_plugin.rank:Rank", summary="scores replaced by their ranks")]

        class Rank(Normalizer):
            def __call__(self, job):
                return job.scores.with_score(job.scores.score.argsort().argsort())
    """


@hookspec
def hgsp_allocators() -> list[Method]:
    """Which units are kept: `AllocateJob -> Plan`. `needs_priors` says whether priors are computed.

    Example:
        @hookimpl
        def hgsp_allocators():
            return [Method("half", "my_plugin.half:Half", summary="keeps the first half of every block")]

        class Half(Allocator):
            needs_priors = False
            def __call__(self, job):
                kept = {(b.layer, b.axis.name): range((b.units + 1) // 2) for b in job.layout.blocks()}
                return Plan.of(job.layout, kept, removed_target=job.layout.layer_parameters)
    """


@hookspec
def hgsp_reconstructors() -> list[Method]:
    """Repair of the kept weights, block by block: `BlockJob -> Repair`; each block sees the pruned model before it.

    `targets` names the outputs that the moments are measured against ("own", "dense", "residual"; see
    `repair/sequential.py`). Empty: nothing is measured and the class is not called. With `reads = True` its method `read` is
    asked, too, what a block's readers (q, k, v; gate, up) absorb, and the head: `ReadJob -> matrix or None`
    (`job.block` is None for the head).

    Example:
        @hookimpl
        def hgsp_reconstructors():
            return [Method("louder", "my_plugin.louder:Louder", summary="scales the kept weights by the removed share")]

        class Louder(Reconstructor):
            targets = ("own",)
            def __call__(self, job):
                return Repair(job.kept, job.weight * job.block.units / len(job.kept), job.bias)
    """


@hookspec
def hgsp_recoverers() -> list[Method]:
    """Training after the cut: `RecoverJob -> dict of what happened`; writes a new checkpoint to `job.destination`.

    The class is built before any work starts: data that cannot be used should be found there, and in `check(directory)`, which
    it may have, what cannot be used with the model in that directory. With `parallel = True` it is called in all processes of
    a run, else in the first only.

    Example:
        @hookimpl
        def hgsp_recoverers():
            return [Method("copy", "my_plugin.copy:Copy", summary="trains nothing")]

        class Copy(Recoverer):
            def __call__(self, job):
                shutil.copytree(job.checkpoint, job.destination)
                return {"steps": 0}
    """


@hookspec
def hgsp_evaluators() -> list[Method]:
    """Measurements of a loaded model: `EvaluateJob -> {metric: number or {name: number}}`, run before and after the cut.

    A class that reads `job.loaded` sets `whole_model = True`: where weights are streamed there is none, and the run says so
    before it cuts, with `weights: streamed` before it measures. One with
    `compare(dense_job, pruned_job) -> (metrics, metrics)` (a PairEvaluator) gets both models at once instead, and
    `apart(open_dense, open_pruned)` where both do not fit in memory: by default each is measured alone.
    `measures` may list what it gives, so that two of the same are refused. A metric that ends in `_protocol` says how
    another one was measured, one in `_stderr` is its standard error. Tables show numbers and {name: number}, and leave out
    what is nested deeper.
    With `inputs() -> mapping` of all that its result depends on beside the model, the original is measured once for many runs.

    Example:
        @hookimpl
        def hgsp_evaluators():
            return [Method("vocabulary", "my_plugin.vocabulary:Vocabulary", summary="size of the vocabulary")]

        class Vocabulary(Evaluator):
            whole_model = True
            def __call__(self, job):
                return {"vocabulary": job.loaded.config.vocab_size}
    """


@hookspec
def hgsp_exporters() -> list[Method]:
    r"""Other forms of the finished checkpoint: `ExportJob -> path that was written` below `job.destination`.

    A class may have `check(directory, layout)`, called before anything is cut, to refuse what it cannot hold, and
    `publish(path)`, called when the run is in its place, to send away what it wrote; it returns where to.

    Example:
        @hookimpl
        def hgsp_exporters():
            return [Method("plan-only", "my_plugin.export:PlanOnly", summary="the sizes, without weights")]

        class PlanOnly(Exporter):
            def __call__(self, job):
                path = job.destination / "sizes.txt"
                path.write_text("\n".join(str({a: len(b.kept) for a, b in l.items()}) for l in job.plan.layers))
                return path
    """


@hookspec
def hgsp_datasets() -> list[Method]:
    """Text by name: `DatasetJob -> list of documents`. Local files and hub ids need no plugin.

    A class that also has `rows(job)`, which gives mappings (instruction/input/output or messages), can be trained on.

    Example:
        @hookimpl
        def hgsp_datasets():
            return [Method("haiku", "my_plugin.haiku:Haiku", summary="three lines")]

        class Haiku(Dataset):
            def __call__(self, job):
                return ["An old silent pond / A frog jumps into the pond / Splash! Silence again."]
    """
