"""report.html, as a parser reads it and as a browser shows it."""

import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.artifacts.scales import Scales
from hgsp_core.report.chart import Scale, short
from hgsp_core.report.diagnosis import diagnose
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.heat import COLUMNS, measured, picture
from hgsp_core.report.run_page import run_page
from hgsp_core.report.tables import headline
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.score.contract import NormalizeJob, Normalizer
from tests.helpers.allocate_models import llama, small, spread_priors, spread_scores
from tests.helpers.browser import BINARY, NAMES, tab

EVIL = '<script>alert("1")</script><img src=x onerror=alert(1)>&amp;\'"'
REPORT = {
    "recipe": {"recover": {"use": "lora"}},
    "calibration": {"dataset": EVIL, "samples": 128, "seq_len": 128, "seed": 0, "tokens_sha256": "ab" * 32},
    "before": {
        "parameters": 8_030_261_248, "layer_parameters": 6_979_584_000, "macs": 7.5e9, "bytes": 16_060_522_496,
        "kv_cache_bytes_per_token": 131072, "perplexity": {EVIL: 6.14, "c4": 9.4}, "accuracy": {"boolq": 0.81, "piqa": 0.80},
        "decode_tokens_per_second": {"batch 1": 31.0}, "perplexity_protocol": {"seq_len": 128}, "odd": {"nested": {"value": 1.5}},
    },
    "after": {
        "parameters": 6_424_211_456, "layer_parameters": 5_373_534_208, "macs": 5.9e9, "bytes": 12_848_422_912,
        "kv_cache_bytes_per_token": 104857, "perplexity": {EVIL: 9.7, "c4": float("inf")}, "accuracy": {"boolq": 0.74},
        "decode_tokens_per_second": {"batch 1": 38.5},
    },
    "recovery": {
        "method": EVIL,
        "perplexity": {"before": {EVIL: 12.25}, "after": {EVIL: 9.75}},
        "steps": 1200,
        "held_out_loss": {"0": 2.5, "600": 2.3, "1200": 2.25},
    },
    "reused": ["calibration"],
    "notes": [EVIL],
    "exports": ["model"],
    "timings": {"Sweep": 12.5, "Evaluate original": 3.25},
    "peak_memory_bytes": 2_000_000_000,
    "versions": {"python": "3.11", "hgsp-core": "0.1"},
}  # fmt: skip


def run_of(layout, priors=True, decades=3.5, report=REPORT) -> RunFacts:
    scores, found = spread_scores(layout, decades=decades), spread_priors(layout) if priors else None
    allocate = {"use": "hgsp", "with": {"ratio": 0.2, "temperature": 1 if priors else 0}}
    recipe = Recipe(model={"path": f"org/{EVIL}"}, output=EVIL, score={"use": "taylor"}, allocate=allocate)

    def replan(recipe):
        changed = scores
        for use in recipe.normalize:
            changed = use.build(Normalizer)(NormalizeJob(layout, changed))
        return changed, recipe.allocate.build(Allocator)(AllocateJob(layout, changed, found))

    allocated, plan = replan(recipe)
    diagnosis = diagnose(recipe, layout, plan, allocated, Scales.of_scores(scores, len(layout.layers)), replan)
    return RunFacts(recipe, layout, plan, allocated, found, report, diagnosis)


@pytest.fixture(scope="module")
def large():
    return run_of(llama(32, 4096, 32, 8, 14336, 128256, head_dim=128))


@pytest.fixture(scope="module")
def html(large):
    return run_page(large)


class Reader(HTMLParser):
    """Tags with their attributes, and the text of table cells, preformatted text and headings."""

    VOID = {"meta", "link", "img"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data


def test_the_page_is_whole_and_no_text_becomes_markup(html):
    read = Reader(html)
    assert not [tag for tag, _ in read.tags if tag == "script"]
    assert not [a for _, a in read.tags for name in a if name.startswith("on")]
    shown = {
        text for tag in ("td", "th", "li", "dd", "dt", "pre", "code", "p", "span") for text in read.texts.get(tag, [])
    }
    assert EVIL in shown
    assert f"perplexity, {EVIL}" in shown
    assert sum(EVIL in text for text in shown) >= 5


def test_the_page_fetches_nothing(html):
    addresses = [
        value
        for _, a in Reader(html).tags
        for name, value in a.items()
        if name in ("src", "href", "xlink:href", "srcset")
    ]
    assert addresses
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert not re.search(r"@import|url\(|@font-face", html)


def test_the_page_of_an_8b_model_is_a_small_file(html):
    assert len(html.encode()) < 250_000


def test_the_headline_on_the_page_is_that_of_the_terminal(html):
    cells = Reader(html).texts["td"]
    for row in headline(REPORT):
        for cell in row.cells()[1:]:
            assert cell in cells


def test_what_was_not_measured_has_no_section():
    assert "Importance of layers" not in run_page(run_of(small(), priors=False))
    assert "Training after the cut" not in run_page(run_of(small(), report={**REPORT, "recovery": None}))
    nothing = {
        **REPORT,
        "calibration": None,
        "after": {"parameters": 5},
        "before": {"parameters": 9},
        "notes": [],
        "exports": [],
    }
    assert "Nothing that was measured needed any text" in run_page(run_of(small(), report=nothing))


def test_every_figure_is_named_for_those_who_do_not_see_it(html):
    read = Reader(html)
    drawings = [a for tag, a in read.tags if tag == "svg"]
    assert len(drawings) >= 6
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    figures, captions = (sum(tag == name for tag, _ in read.tags) for name in ("figure", "figcaption"))
    assert figures == captions == 7
    tables, named = (sum(tag == name for tag, _ in read.tags) for name in ("table", "caption"))
    assert tables == named >= 4


def test_every_mark_says_its_number_where_a_reader_points_at_it(html):
    marks = re.findall(r"<(circle [^>]*|g|g class=\"cut\")>(<title>[^<]*\d)?", html)
    assert {tag.split()[0] for tag, _ in marks} == {"circle", "g"}
    assert all(title for _, title in marks)


def test_the_heat_map_shows_what_goes_left_of_what_stays():
    run = run_of(small(layers=4, channels=200))
    values, removed = measured(run, "mlp")
    assert values.shape == (4, COLUMNS)
    scores, worth = run.scores, run.scores.importance / run.scores.cost
    for layer in range(4):
        own = scores.units_of(layer, "mlp")
        assert removed[layer] == pytest.approx((run.kept[own] == 0).mean())
        # every unit is in one column, so the columns weighted by their units have the mean of the units
        counts = np.diff([*(np.arange(COLUMNS) * len(own) // COLUMNS), len(own)])
        assert (values[layer] * counts).sum() == pytest.approx(worth[own].sum())
        kept = np.sort(worth[own][run.kept[own] == 1])
        assert values[layer, -1] == pytest.approx(kept[-counts[-1] :].mean())
    assert imread(BytesIO(picture(values, 1e-3, 1.0)), format="png").shape[:2] == (4, COLUMNS)


def test_scales_label_round_values_within_their_range():
    assert Scale(0, 0.9).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    wide = Scale.over([2e-6, 0.3])
    assert wide.log
    assert wide.place(2e-6) >= 0
    assert wide.ticks()[0] == pytest.approx(1e-6)
    assert [short(tick) for tick in (1e-6, 0.001, 20.0)] == ["10⁻⁶", "0.001", "20"]
    for values in ([5.0], [0.0], [-3.0, 3.0], [1e9, 1.1e9], [float("nan")], []):
        scale = Scale.over(values)
        assert scale.low < scale.high
        assert 2 <= len(scale.ticks()) <= 8
        assert all(0 <= scale.place(v) <= 100 for v in scale.ticks())
    for count in (1, 16, 17, 32, 80, 126, 1000):
        for scale in (Scale.layers(count), Scale.layers(count, down=True)):
            assert len(scale.ticks()) <= 16
            assert {value % 1 for value in scale.ticks()} == {0}
            assert scale.ticks()[0] == 0
            assert scale.ticks(count)[-1] == count - 1
    assert [Scale.layers(4).place(layer) for layer in range(4)] == [12.5, 37.5, 62.5, 87.5]
    assert [Scale.layers(4, down=True).place(layer) for layer in range(4)] == [87.5, 62.5, 37.5, 12.5]


def test_a_headings_anchor_and_every_cell_are_escaped():
    run = run_of(small(), report={**REPORT, "versions": {"<b>": "<i>1</i>"}})
    run.diagnosis["source"] = "<a>"
    text = run_page(run)
    assert '<tr><th scope="row">&lt;b&gt;</th><td>&lt;i&gt;1&lt;/i&gt;</td></tr>' in text
    assert 'id="scale-of-the--a-"' in text


browser = pytest.mark.skipif(
    BINARY is None, reason=f"no Chromium is installed: none of {', '.join(NAMES)} is on the path"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_figure_and_has_nothing_to_complain_about(chromium, file, scheme):
    chromium.open(file, scheme=scheme)
    sizes = chromium.evaluate(
        "[...document.querySelectorAll('figure svg.plot')].map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
        " s.querySelectorAll('rect, circle, image').length])"
    )
    assert len(sizes) == 7
    assert all(width > 250 and height > 90 and marks for width, height, marks in sizes)
    assert chromium.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert chromium.messages == []
    assert all(address.startswith(("file:", "data:")) for address in chromium.requests)


@browser
@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_is_wider_than_the_page(chromium, file, width):
    chromium.open(file, width=width)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    beyond = (
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, pre') &&"
        f" e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 90))"
    )
    assert chromium.evaluate(beyond) == []


#: ratio of contrast of every element's own text against what is painted behind it (WCAG 2)
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = c => { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = c => c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!c.endsWith(', 0)') && c !== 'transparent') return c; } return 'white'; };
  return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => e.tagName !== 'title').map(e => { const svg = e.closest('svg');
      const ink = light(rgb(getComputedStyle(e)[svg ? 'fill' : 'color'])), paper = light(rgb(behind(svg ? svg.parentElement : e)));
      return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), e.tagName, e.textContent.slice(0, 30)]; })
    .sort((a, b) => a[0] - b[0])[0];
})()"""


@browser
@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_every_word_stands_out_from_what_is_behind_it(chromium, file, scheme, media):
    chromium.open(file, scheme=scheme, media=media)
    ratio, *where = chromium.evaluate(CONTRAST)
    assert ratio >= 4.5, where


@browser
def test_a_reader_who_prefers_dark_gets_dark_paper_and_a_printer_never_does(chromium, file):
    def paper(**how):
        chromium.open(file, **how)
        return sum(
            map(int, re.findall(r"\d+", chromium.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
        )

    assert paper(scheme="light") > 700
    assert paper(scheme="dark") < 150
    assert paper(scheme="dark", media="print") > 700


@browser
def test_in_print_the_folded_numbers_are_there_and_nothing_is_cut_off(chromium, file):
    chromium.open(file)
    assert (
        chromium.evaluate("document.querySelector('details table').checkVisibility({contentVisibilityAuto: true})")
        is False
    )
    chromium.open(file, width=700, media="print")
    assert chromium.evaluate("document.querySelector('details table').getBoundingClientRect().height") > 300
    assert chromium.evaluate("[...document.querySelectorAll('pre')].every(p => p.scrollWidth <= p.clientWidth + 1)")
    assert chromium.pdf().startswith(b"%PDF")
