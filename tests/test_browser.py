"""The report in headless Chromium: two widths, sorted and filtered, in Chinese, and on paper."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from tests.test_report import FACTS, baselines, histories, table
from ulmfit_app.evaluation.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")

# A window cannot be as narrow as a phone, and a page shows nothing to a process outside it. So
# the report stands in a frame of the page below, which acts as its reader and writes what it sees.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0">
<iframe src="report.html" style="width: WIDTHpx; height: 1600px; border: 0"></iframe>
<script>
document.querySelector("iframe").addEventListener("load", ({target}) => {
  const page = target.contentDocument, root = page.documentElement;
  const choose = (name, value) => {
    const control = page.querySelector(`.controls [name=${name}]`);
    control.value = value;
    control.dispatchEvent(new Event("input"));
  };
  const articles = () => [...page.querySelectorAll("article")];
  const errors = () => articles().filter((one) => one.checkVisibility());
  const rows = () => errors().map((one) => +one.dataset.row);
  const found = ACTIONS;
  const shown = document.createElement("pre");
  shown.textContent = JSON.stringify(found);
  document.body.append(shown);
});
</script></body>"""


def chromium(page: Path, *options: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
        ]
        command += [
            "--virtual-time-budget=5000",
            f"--user-data-dir={profile}",
            *options,
            page.as_uri(),
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True
        ).stdout


def read(folder: Path, actions: str, width: int = 1280, *options: str):
    """The value of the expression `actions` in the report of a folder, in a frame of a width."""
    frame = folder / "frame.html"
    frame.write_text(
        FRAME.replace("WIDTH", str(width)).replace("ACTIONS", actions), encoding="utf-8"
    )
    dom = chromium(frame, f"--window-size={max(width, 500)},1600", "--dump-dom", *options)
    return json.loads(re.search("<pre>(.*)</pre>", dom, flags=re.DOTALL)[1])


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """A report of six classes with long Chinese and English names, and its errors in order."""
    folder = tmp_path_factory.mktemp("report")
    labels = (
        "好评",
        "差评",
        "a category with a rather long name",
        "d",
        "e_with_no_space_to_break_at_" * 3,
        "f",
    )
    predictions = table(
        n=400, labels=labels, text="看完这部电影 http://example.org/" + "long" * 40
    )
    predictions["source"] = np.array(["mail", "web", "telephone"])[np.arange(400) % 3]
    errors = predictions[predictions["label"] != predictions["predicted"]]
    row = int(errors["confidence"].idxmax())
    word = f'<b style="background: #1f77b4">{"x" * 300}</b>'
    text = f'<p class="how">why</p><p style="white-space: pre-wrap">{word}</p>'
    write_report(
        folder, predictions, baselines(predictions), histories(), FACTS, explanations={row: text}
    )
    return folder, errors.sort_values("confidence", ascending=False, kind="stable")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_at_the_side_and_there_is_something_to_see(report, width):
    folder, _ = report
    drawn = "[...page.images].filter((image) => image.naturalWidth > 300).length"
    needed, there, pictures = read(folder, f"[root.scrollWidth, root.clientWidth, {drawn}]", width)
    assert needed <= there <= width and pictures == 7
    shot = folder / f"{width}.png"
    chromium(
        folder / "frame.html",
        f"--window-size={max(width, 500)},1600",
        f"--screenshot={shot}",
        "--hide-scrollbars",
    )
    seen = matplotlib.image.imread(shot)[..., :3]
    assert seen.shape[:2] == (1600, max(width, 500))
    # Not blank, not one colour: text and figures from top to bottom, nothing beside the frame.
    inked = (seen < 0.9).any(axis=2)
    assert (
        all(part.any() for part in np.array_split(inked[:, :width], 8))
        and not inked[:, width:].any()
    )


def test_the_first_errors_are_shown_and_more_on_demand(report):
    folder, errors = report
    first, more = read(folder, '[rows(), (page.querySelector(".more").click(), rows())]')
    assert first == errors.index[:20].tolist() and more == errors.index[:40].tolist()


def test_errors_are_filtered_by_both_classes_and_by_their_words(report):
    folder, errors = report
    kinds = errors.groupby(["label", "predicted"]).size().sort_values()
    label, predicted = kinds.index[-1]
    numbers = {
        name: i
        for i, name in enumerate(
            dict.fromkeys(c.removeprefix("p_") for c in errors if c.startswith("p_"))
        )
    }
    by_class, by_words, none, said = read(
        folder,
        f"""[
            (choose("label", "{numbers[label]}"), choose("predicted", "{numbers[predicted]}"),
             rows()),
            (choose("label", ""), choose("predicted", ""), choose("words", "NG 7"), rows()),
            (choose("words", "<script>"), rows()),
            page.querySelector(".controls output").textContent,
        ]""",
    )
    wanted = errors[(errors["label"] == label) & (errors["predicted"] == predicted)]
    assert by_class == wanted.index[:20].tolist() and 1 < len(by_class) < len(errors)
    texts = errors["text"].str.lower()
    assert (
        by_words == errors.index[texts.str.contains("ng 7", regex=False)].tolist()[:20]
        and by_words
    )
    assert none == [] and said == "0 of 0 shown"


def test_errors_are_sorted_by_confidence_length_and_row(report):
    folder, errors = report
    orders = ["unsure", "row", "shortest", "longest", "surest"]
    unsure, row, shortest, longest, surest = read(
        folder, f'{json.dumps(orders)}.map((order) => (choose("order", order), rows()))'
    )
    length = errors["text"].str.len()
    assert unsure == errors.index[::-1][:20].tolist() and row == sorted(errors.index)[:20]
    assert shortest == length.sort_values(kind="stable").index[:20].tolist()
    assert longest == length.sort_values(ascending=False, kind="stable").index[:20].tolist()
    assert surest == errors.index[:20].tolist()


def test_a_script_in_a_text_never_runs_whatever_the_page_says(report, tmp_path):
    folder, _ = report
    html = (folder / "report.html").read_text("utf-8")
    smuggled = (
        "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    )
    (tmp_path / "report.html").write_text(html.replace("<h1>", f"{smuggled}<h1>", 1), "utf-8")
    assert read(tmp_path, "[page.title, rows().length]") == ["ULMFiT on reviews.csv", 20]


def test_without_the_policys_leave_all_errors_are_shown(report, tmp_path):
    folder, errors = report
    html = (folder / "report.html").read_text("utf-8")
    (tmp_path / "report.html").write_text(re.sub("; script-src '[^']*'", "", html), "utf-8")
    hidden = " || ".join(
        f'page.querySelector("{name}").checkVisibility()' for name in (".controls", ".more")
    )
    shown, controls = read(tmp_path, f"[rows(), {hidden}]")
    assert shown == errors.index.tolist() and not controls


def test_it_prints_on_pages_of_a_few_sheets(report):
    folder, _ = report
    chromium(
        folder / "report.html", f"--print-to-pdf={folder / 'report.pdf'}", "--no-pdf-header-footer"
    )
    pages = len(re.findall(rb"/Type\s*/Page\b", (folder / "report.pdf").read_bytes()))
    assert 5 <= pages <= 20
