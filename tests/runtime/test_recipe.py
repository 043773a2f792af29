"""Recipes are data: every key is known, defaults are written out, overrides reach any depth."""

import pytest
import yaml

from hgsp_core.errors import HgspError, RecipeError
from hgsp_core.runtime.recipe import QUALITY, Recipe, load_recipe, parse_recipe, resolved

BASE = "model: {path: some/model}\noutput: out\n"


def test_left_out_stages_take_the_defaults_and_are_written_out():
    recipe = parse_recipe(BASE, "r.yaml")
    again = parse_recipe(recipe.to_yaml(), "again")
    assert again == recipe
    written = yaml.safe_load(recipe.to_yaml())
    assert written["score"] == {"use": "curvature", "with": {}}
    assert written["calibrate"]["samples"] == 128
    assert written.keys() == Recipe.model_fields.keys()


@pytest.mark.parametrize("quality", QUALITY)
def test_a_quality_fills_in_what_is_left_out_and_nothing_else(quality):
    recipe = parse_recipe(
        BASE + f"quality: {quality}\nallocate: {{with: {{ratio: 0.4}}}}\nreconstruct: {{use: none}}\n", "r"
    )
    preset = QUALITY[quality]
    assert recipe.score.use == preset["score"]["use"]
    assert recipe.reconstruct.use == "none"
    assert recipe.allocate.use == preset["allocate"]["use"]
    assert recipe.allocate.with_ == {**preset["allocate"].get("with", {}), "ratio": 0.4}
    named = parse_recipe(BASE + f"quality: {quality}\nallocate: {{use: uniform, with: {{ratio: 0.4}}}}\n", "r")
    assert named.allocate.use == "uniform"
    assert named.allocate.with_ == {"ratio": 0.4}
    assert named.reconstruct.use == preset["reconstruct"]["use"]


def test_an_unknown_quality_is_named():
    with pytest.raises(RecipeError, match=r"quality.*'fast', 'balanced' or 'best'.*bset"):
        parse_recipe(BASE + "quality: bset\n", "r")


def test_a_resolved_recipe_has_every_methods_defaults_and_means_the_same():
    recipe = parse_recipe(BASE + "allocate: {use: hgsp, with: {tau: .inf}}\nnormalize: [{use: clip}]\n", "r.yaml")
    whole = resolved(recipe)
    assert whole.allocate.with_["epsilon"] == 0.15
    assert whole.normalize[0].with_ == {"low": 5.0, "high": 95.0}
    again = parse_recipe(whole.to_yaml(), "again")
    assert again == whole == resolved(again)
    assert again.allocate.with_["tau"] == float("inf")


def test_overrides_reach_defaults_lists_and_nested_keys():
    recipe = parse_recipe(
        BASE + "evaluate: [{use: perplexity}]\n",
        "r.yaml",
        [
            "allocate.with.ratio=0.3",
            "allocate.with.limits.freeze_first=1",
            "evaluate.0.with.seq_len=64",
            "normalize=[{use: log}]",
        ],
    )
    assert recipe.allocate.use == "global"
    assert recipe.allocate.with_ == {"ratio": 0.3, "limits": {"freeze_first": 1}}
    assert recipe.evaluate[0].with_ == {"seq_len": 64}
    assert recipe.normalize[0].use == "log"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (BASE + "alocate: {use: hgsp}", [], ["r.yaml", "alocate", "unknown key", "'allocate'"]),
        (BASE + "calibrate: {sample: 3}", [], ["calibrate.sample", "'samples'"]),
        (BASE + "calibrate: {seq_len: 0}", [], ["calibrate.seq_len", "greater than or equal to 2", "given: 0"]),
        (BASE + "calibrate: {samples: many}", [], ["calibrate.samples", "integer", "'many'"]),
        (BASE + "allocate: {with: {ratio: 1.2}}", [], ["allocate.with.ratio", "less than 1", "1.2"]),
        (BASE + "allocate: {with: {ratoi: 0.2}}", [], ["allocate.with.ratoi", "'ratio'"]),
        (
            BASE + "allocate: {with: {limits: {freeze_frist: 1}}}",
            [],
            ["allocate.with.limits.freeze_frist", "'freeze_first'"],
        ),
        (BASE + "score: {use: tailor}", [], ["score.use", "no scorer 'tailor'", "'taylor'"]),
        (BASE + "score: taylor", [], ["score", "given: 'taylor'"]),
        (BASE + "evaluate: [{use: perplexity}, {use: perplexty}]", [], ["evaluate.1.use", "'perplexity'"]),
        ("output: out", [], ["model", "required"]),
        ("model: [", [], ["line 1", "not valid YAML"]),
        ("model: {path: a}\noutput: b\n  c: d", [], ["line 3", "not valid YAML"]),
        ("- a", [], ["mapping", "hgsp recipe init"]),
        (BASE + "version: 2", [], ["version", "1"]),
        (BASE, ["calibrate.samples"], ["--set", "key.key=value"]),
        (BASE, ["output.x=1"], ["--set", "'output' is a single value"]),
        (BASE + "export: [{use: huggingface}]", ["export.3.use=x"], ["--set", "list of 1"]),
        (BASE, ["device=gpu"], ["device", "given: 'gpu'"]),
        ("model: !!python/object/apply:os.system [true]\noutput: b", [], ["not valid YAML"]),
    ],
    ids=lambda v: str(v)[-40:],
)
def test_what_is_wrong_is_named_with_its_place_and_the_fix(text, overrides, words):
    with pytest.raises(HgspError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    for word in words:
        assert word in str(caught.value), str(caught.value)


SEVERAL = [
    ("[c4, wikitext2]", {}, [64, 64]),
    ("[{use: c4, share: 0.5}, {use: wikitext2, share: 0.5}]", {}, [64, 64]),
    ("[c4, {use: wikitext2, share: 2}]", {"samples": 10}, [3, 7]),
    ("[c4, ptb, wikitext2]", {"samples": 128}, [43, 43, 42]),
    ("[{use: c4, share: 1.0e+308}, {use: ptb, share: 1.0e+308}]", {"samples": 3}, [2, 1]),
    ("[pydoc]", {"samples": 5}, [5]),
    ("pydoc", {"samples": 5}, [5]),
]


@pytest.mark.parametrize(("dataset", "others", "windows"), SEVERAL, ids=[case[0] for case in SEVERAL])
def test_texts_of_a_calibration_set_share_its_windows(dataset, others, windows):
    settings = [f"calibrate.dataset={dataset}", *(f"calibrate.{key}={value}" for key, value in others.items())]
    recipe = parse_recipe(BASE, "r", settings)
    assert recipe.calibrate.windows == windows
    again = parse_recipe(resolved(recipe).to_yaml(), "again")
    assert again.calibrate.windows == windows
    assert resolved(again) == resolved(recipe)


WRONG_TEXTS = [
    ("dataset=[]", "calibrate.dataset: ", "names no text"),
    ("dataset=5", "calibrate.dataset: ", "valid string"),
    ("dataset={use: c4}", "calibrate.dataset: ", "belongs in a list"),
    ("dataset=[c4, {use: ptb, share: 0}]", "calibrate.dataset.1.share: ", "greater than 0"),
    ("dataset=[c4, {use: ptb, share: .inf}]", "calibrate.dataset.1.share: ", "finite"),
    ("dataset=[c4, {use: ptb, share: half}]", "calibrate.dataset.1.share: ", "number"),
    ("dataset=[c4, {use: ptb, shares: 1}]", "calibrate.dataset.1.shares: ", "Did you mean 'share'?"),
    ("dataset=[c4, {share: 1}]", "calibrate.dataset.1.use: ", "required"),
    ("dataset=[c4, '']", "calibrate.dataset.1.use: ", "at least 1 character"),
    ("dataset=[c4, true]", "calibrate.dataset.1: ", "given: True"),
    ("dataset=[c4, {use: ptb, with: {colum: x}}]", "calibrate.dataset.1.with.colum: ", "Did you mean 'column'?"),
    ("dataset=[c4, {use: c4, with: {config: en}}]", "calibrate.dataset.1: ", "'c4' is in the list already"),
    ("={dataset: [c4, ptb], with: {column: x}}", "calibrate.with: ", "write 'with' into its entries"),
    ("={dataset: [c4, ptb], samples: 1}", "calibrate.samples: ", "too few for a window of 'ptb'"),
    ("dataset=[c4, {use: ptb, share: 0.001}]", "calibrate.samples: ", "too few for a window of 'ptb'"),
]


@pytest.mark.parametrize(("setting", "place", "words"), WRONG_TEXTS, ids=[case[0] for case in WRONG_TEXTS])
def test_a_wrong_text_is_refused_at_its_own_place(setting, place, words):
    setting = f"calibrate{setting}" if setting.startswith("=") else f"calibrate.{setting}"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(BASE, "r.yaml", [setting])
    assert str(caught.value).startswith(f"r.yaml: {place}")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_text_may_be_there_twice_with_other_parameters():
    recipe = parse_recipe(BASE, "r", ["calibrate.dataset=[c4, {use: c4, with: {config: de}}]"])
    assert [text.with_ for text in recipe.calibrate.texts.values()] == [{}, {"config": "de"}]


def test_a_missing_recipe_names_its_neighbours(tmp_path):
    (tmp_path / "demo.yaml").write_text(BASE)
    with pytest.raises(HgspError, match=r"Did you mean 'demo.yaml'"):
        load_recipe(tmp_path / "dmo.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "allocate: {with: {ratio: 0.2, ratio: 0.5}}", ["line 3", "'ratio' is given twice"]),
        (BASE + "calibrate: {samples: true}", ["calibrate.samples", "true and false are not accepted here"]),
        (BASE + "calibrate: {with_: {}}", ["calibrate.with_", "unknown key"]),
        ("model: {path: a}\noutput: !!timestamp 2024-13-45", ["not valid YAML"]),
    ],
    ids=["twice", "boolean", "alias", "date"],
)
def test_what_yaml_would_let_pass_is_refused(text, words):
    with pytest.raises(HgspError) as caught:
        parse_recipe(text, "r.yaml")
    for word in words:
        assert word in str(caught.value), str(caught.value)
