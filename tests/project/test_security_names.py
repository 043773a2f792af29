"""Names and addresses from outside: shown as they are, never taken for markup, and never with what logs somebody in."""

import json
import logging

import pytest
import yaml
from markdown_it import MarkdownIt

from hgsp_core.errors import HgspError, without_credentials
from hgsp_core.export.errors import HubError
from hgsp_core.export.hub import push
from hgsp_core.report import markdown as md
from hgsp_core.runtime.monitor import log
from tests.helpers.command import MODEL, hgsp
from tests.helpers.hostile import small_model
from tests.helpers.hub import running_hub

NAME = "wiki [/b] [red]x[/red] :smile: <i>y</i> | $\\frac$ `z` *w* [a](http://b) &lt;"
SECRET = "s3cret"
TOKEN = "hf_" + "abcDEF123" * 4
ADDRESSES = (
    f"https://me:{SECRET}@hub.example/o/n",
    f"https:/me:{SECRET}@hub.example/o/n",
    f"https://{SECRET}@hub.example/x",
    TOKEN,
)


@pytest.fixture
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "a $x$ <b> [b]"
    model = small_model(folder / "model $\\x$ [b] <b>")
    text = folder / "secret place" / "text.txt"
    text.parent.mkdir()
    text.write_text("The module provides functions. " * 200)
    dataset = {"use": str(text), "name": NAME}
    content = {
        "model": {"path": str(model)},
        "calibrate": {"dataset": str(text), "samples": 4, "seq_len": 16},
        "score": {"use": "magnitude"},
        "allocate": {"use": "hgsp", "with": {"ratio": 0.2}},
        "reconstruct": {"use": "none"},
        "evaluate": [
            {"use": "perplexity", "with": {"datasets": [dataset], "seq_len": 16, "max_windows": 2}},
            {"use": "perplexity", "with": {"datasets": [str(text)], "seq_len": 16, "max_windows": 2}},
        ],
        "output": "out",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def texts_of(markdown):
    """What a reader sees of it: the text of every inline part, and the kinds of parts there are."""
    parts = [
        child for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown) for child in token.children or ()
    ]
    return "\n".join(part.content for part in parts), {part.type for part in parts}


def test_a_name_is_shown_as_it_is_everywhere_and_ends_no_run(said, tmp_path, recipe):
    code, out, err = said("run", recipe)
    assert code == 0, err
    assert f"perplexity, {NAME}" in out
    assert str(recipe.parent) in out
    run = tmp_path / "out"
    page = (run / "report.html").read_text()
    assert "<i>y</i>" not in page
    assert "&lt;i&gt;y&lt;/i&gt;" in page
    for command in (("compare", run), ("diagnose", run), ("compare", run, "--html"), ("compare", run, "--csv")):
        assert said(*command)[0] == 0, command
    code, markdown, _ = said("compare", run, "--markdown")
    seen, kinds = texts_of(markdown)
    assert code == 0
    assert "ppl " + NAME in seen
    assert not kinds & {"html_inline", "link_open", "em_open", "code_inline"}
    code, out, err = said("eval", MODEL, "--dense", MODEL, "--recipe", recipe)
    assert code == 0, err
    assert f"perplexity, {NAME}" in out, err
    code, out, err = said("verify", run)
    assert code == 0, out
    code, out, err = said("plan", recipe, "--output", "other")
    assert code == 0, err


def test_the_card_shows_names_as_they_are_and_no_local_path(said, tmp_path, recipe):
    settings = (
        "--set",
        "prior={use: file, with: {path: " + json.dumps(str(recipe.parent / "secret place" / "p.json")) + "}}",
    )
    (recipe.parent / "secret place" / "p.json").write_text('{"layer": [1, 2]}')
    code, _, err = said("run", recipe, *settings)
    assert code == 0, err
    for again in (False, True):
        folder = tmp_path / "out" / "model"
        if again:
            assert said("export", "out", "--to", "huggingface", "--output", "again")[0] == 0
            folder = tmp_path / "again" / "model"
        card = (folder / "README.md").read_text()
        front, body = card.split("---\n", 2)[1:]
        assert "base_model" not in yaml.safe_load(front)
        assert "secret place" not in card
        assert str(recipe.parent.parent) not in card
        assert "/tmp" not in card
        seen, kinds = texts_of(body)
        assert f"perplexity, {NAME}" in seen
        assert "perplexity, text.txt" in seen
        assert "model $\\x$ [b] <b>, pruned" in seen
        assert "html_inline" not in kinds
        assert "text.txt" in body
        assert "p.json" in body


def test_markdown_of_any_text_reads_as_that_text():
    for value in (
        NAME,
        "# a",
        "- a",
        "_a_ b_c",
        "~~a~~",
        "a\nb | c",
        "``",
        "`a``b`",
        "<!-- -->",
        "\\",
        "![x](y)",
        "&amp;",
    ):
        line = " ".join(value.split())
        html = MarkdownIt("gfm-like", {"linkify": False})
        (inline,) = [
            token for token in html.parse(md.table(["x"], [[md.text(value)]], [False])) if token.type == "inline"
        ][1:]
        assert "".join(child.content for child in inline.children) == line
        assert {c.type for c in inline.children} <= {
            "text",
            "text_special",
        }
        (inline,) = [token for token in html.parse(md.bullets([value])) if token.type == "inline"]
        assert "".join(child.content for child in inline.children) == line
        (inline,) = [token for token in html.parse(f"x {md.code(value)} y") if token.type == "inline"]
        assert [c.content for c in inline.children if c.type == "code_inline"] == [line]
        (fence,) = html.parse(md.block(f"a\n```\n{value}", "yaml"))
        assert fence.type == "fence"
        assert fence.content == f"a\n```\n{value}\n"


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_recipe_that_holds_a_password_or_token_is_refused_without_repeating_it(refused, address):
    for command in (
        ("prune", "--base_model", address, "--pruning_ratio", 0.2, "--output", "out"),
        ("eval", address, "--dataset", "pydoc"),
        ("eval", MODEL, "--dataset", address),
        ("eval", MODEL, "--dataset", "none", "--tasks", "x", "--set", f"evaluate.0.with.include_path={address}"),
        (
            "eval",
            MODEL,
            "--dataset",
            "pydoc",
            "--set",
            f"evaluate.0.with.datasets.0={{use: pydoc, with: {{token: '{address}'}}}}",
        ),
        ("finetune", MODEL, "--data_path", address, "--output_dir", "out"),
        ("finetune", MODEL, "--data_path", "pydoc", "--output_dir", address),
        ("export", MODEL, "--to", "huggingface", "--output", address),
    ):
        message = refused(*command)
        assert SECRET not in message, message
        assert TOKEN not in message, message
        assert "it contains a password or a token" in message, message


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_other_message_repeats_one(refused, address):
    for command in (
        ("verify", address),
        ("export", address, "--to", "huggingface", "--output", "out"),
        ("diagnose", address),
        ("compare", address),
        ("plan", address),
        ("eval", MODEL, "--dense", address, "--dataset", "pydoc", "--max_samples", 1),
        ("recipe", "validate", address),
        ("sweep", address),
    ):
        message = refused(*command)
        assert SECRET not in message, message
        assert TOKEN not in message, message


def test_what_the_hub_answers_is_repeated_without_the_login_in_its_address(tmp_path):
    """HF_ENDPOINT with a password in it, as a mirror may have: in no message, no file and no result."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    with running_hub() as hub:
        address = hub.address.replace("://", f"://me:{SECRET}@")
        done = hgsp("plan", "recipe.yaml", cwd=tmp_path, **hub.environment(HF_ENDPOINT=address))
        (tmp_path / "recipe.yaml").write_text("model: {path: a/b}\noutput: o\ncalibrate: {dataset: pydoc}\n")
        done = hgsp("plan", "recipe.yaml", cwd=tmp_path, **hub.environment(HF_ENDPOINT=address))
    assert done.returncode == 2, done.stderr
    assert SECRET not in done.stdout + done.stderr, done.stderr


def test_what_is_logged_is_without_credentials(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "hgsp"):
        log.warning("fetched from %s", ADDRESSES[0])
    assert caplog.messages == ["fetched from https://***@hub.example/o/n"]


def test_what_is_hidden_and_what_is_not():
    assert without_credentials("https://h.example/f?X-Amz-Signature=abc&b=1 next") == "https://h.example/f?*** next"
    assert without_credentials(f"Bearer {TOKEN}.") == "Bearer hf_***."
    for text in ("https://hub.example/a/b", "a@b.example", "hf_model", "/x/y@z/w", "cuda:0", "git@hub.example:a/b"):
        assert without_credentials(text) == text


def test_a_message_steers_no_terminal():
    assert str(HgspError("a \x1b[2J\r\x07b\n\tc é")) == "a \\x1b[2J\\r\\x07b\n\tc é"
    assert issubclass(HubError, HgspError)
    assert push
