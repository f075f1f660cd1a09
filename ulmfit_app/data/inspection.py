"""What a data set is like before anything is trained: findings, each with what it means for a run.

Texts are read and tokenized as a run does it; a run over the same texts finds their words in the
cache. Nothing is trained, and nothing here needs torch.
"""

import io
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import DataSettings, LanguageModelSettings, TokenSettings
from ulmfit_app.data.characters import escape
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.described import Described, describe
from ulmfit_app.data.group_finding import check_groups_of
from ulmfit_app.data.label_checks import CHECKS_OF_SEVERAL, LABEL_CHECKS, find_label_errors
from ulmfit_app.data.label_set_checks import LEFT_OUT
from ulmfit_app.data.language import find_language, is_open, make_subwords, require_chinese
from ulmfit_app.data.splits import SPLITS
from ulmfit_app.data.text_checks import TEXT_CHECKS
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation import data_figures, drawing
from ulmfit_app.evaluation.findings import Finding, findings_page
from ulmfit_app.files import write_table
from ulmfit_app.languages import has_subwords
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import subwords_in_memory
from ulmfit_app.text.tokenizing import tokenize


@dataclass(frozen=True)
class Inspection:
    """What was found in a data set.

    Attributes:
        title: of the page.
        about: of the page, a sentence.
        notes: what was done to the data while they were read, in sentences.
        findings: one for each check.
        drawn: figures by finding.
        go_on: the command that trains on these data.
    """

    title: str
    about: str
    notes: list[str]
    findings: list[Finding]
    drawn: dict[str, data_figures.Figure]
    go_on: str

    def verdict(self) -> str:
        """Which checks found trouble, and the next command."""
        trouble = [one.name for one in self.findings if one.trouble]
        if not trouble:
            return f"No trouble in {len(self.findings)} checks. Next: {self.go_on}"
        found = f"Trouble in {len(trouble)} of {len(self.findings)} checks: {', '.join(trouble)}."
        return f"{found} A run can be started all the same: {self.go_on}"

    def as_text(self) -> str:
        """All of it for a terminal."""
        lines = [f"{self.title}: {self.about}", *self.notes]
        for one in self.findings:
            lines += [
                "",
                f"{'TROUBLE' if one.trouble else 'in order'} | {one.name}",
                f"  {one.found}",
                f"  {one.meaning}",
            ]
            lines += [f"  To do: {one.advice}"] if one.trouble else []
            tables = [
                one.table,
                None if one.suspects is None else one.suspects.drop(columns="text").head(4),
            ]
            for table in tables:
                if table is not None and len(table):
                    shown = table.head(10).map(lambda cell: escape(str(cell)))
                    lines += ["    " + line for line in shown.to_string(index=False).split("\n")]
        return "\n".join([*lines, "", self.verdict()])

    def write(self, folder: Path) -> Path:
        """Write inspection.html and suspects.csv into `folder`; the page's path."""
        columns = ["check", "group", "split", "label", "excerpt", "text"]
        suspects = [
            one.suspects.assign(check=one.name)
            for one in self.findings
            if one.suspects is not None
        ]
        write_table(folder / "suspects.csv", pd.concat(suspects)[columns])
        pngs = {}
        for name, figure in self.drawn.items():
            file = io.BytesIO()
            drawing.save_png(figure, file)
            pngs[name] = file.getvalue()
        with replacing(folder / "inspection.html") as draft:
            html = findings_page(
                self.title, self.about, self.verdict(), self.notes, self.findings, pngs
            )
            draft.write_text(html, encoding="utf-8")
        return folder / "inspection.html"


def inspect(
    data: DataSettings, tokens: TokenSettings, seed: int, label_errors: bool = False
) -> Inspection:
    """Read, split and tokenize texts as a run with the same settings would, and look at them.

    Args:
        data: the texts.
        tokens: how they are tokenized, and how large the vocabulary is. Where the language is
            left at its default, the texts say theirs.
        seed: what made splits depend on.
        label_errors: look for labels of train that are probably wrong, too, which learns from the
            texts several times.

    Raises:
        SettingError: label errors are asked for without cleanlab; a package that the language
            needs is not installed; or load_corpus raises it.
        DataError: as load_corpus, make_vocab and make_subwords raise it.
        data_scripts.fetch.FetchError: IMDb or TREC cannot be had.
    """
    if label_errors and find_spec("cleanlab") is None:
        raise SettingError(
            "Looking for label errors needs cleanlab, which is not installed. Run: pip install "
            "'ulmfit-app[labels]'"
        )
    corpus, notes = load_corpus(data, seed), []
    if label_errors and corpus.multilabel:
        raise SettingError(
            "--label-errors is for texts with one label each: what cleanlab compares is one label "
            "of a text with another. Leave it out."
        )
    if is_open(data, tokens):
        tokens, notes = find_language(data, tokens, corpus.table["text"])
    require_chinese(tokens)
    store = _tokenize(corpus, tokens)
    about = corpus.labels, corpus.multilabel, corpus.table[list(corpus.groups)]
    known = Described(describe(corpus, store), store, data, tokens, seed, *about)
    several = known.multilabel
    checks, left_out = (CHECKS_OF_SEVERAL, [LEFT_OUT]) if several else (LABEL_CHECKS, [])
    classes = "labels, of which a text may have several" if several else "classes"
    return Inspection(
        f"Before training on {Path(data.source).name}",
        f"{len(known.table):,} texts from {corpus.origin}; {len(corpus.labels)} {classes}; tested "
        f"on: {corpus.test_name}.",
        notes + corpus.notes + left_out,
        [check(known) for check in (*checks, *TEXT_CHECKS)]
        + check_groups_of(known)
        + ([find_label_errors(known, seed)] if label_errors else []),
        _draw(known),
        known.go_on,
    )


def _draw(known: Described) -> dict[str, data_figures.Figure]:
    """Figures by the name of their finding."""
    texts = known.labelled()["split"].value_counts()
    tokens = {
        split: part["tokens"].to_numpy()
        for split, part in known.table.groupby("split", sort=False)
    }
    lengths = {split: tokens[split] for split in SPLITS if split in tokens}
    return {
        "Labels" if known.multilabel else "Classes": data_figures.balance_figure(
            known.class_counts(), texts
        ),
        "Lengths": data_figures.lengths_figure(lengths, known.reach),
    }


def _tokenize(corpus: Corpus, tokens: TokenSettings) -> TokenStore:
    texts = corpus.table["text"]
    if not has_subwords(tokens.language):
        return TokenStore.open(tokenize(texts.tolist(), tokens.language))
    learned = corpus.table["split"].isin(LanguageModelSettings().splits)
    return subwords_in_memory(texts, make_subwords(tokens, texts[learned]))


def check_out(out: Path, source: str) -> None:
    """Refuse a folder that cannot take the page, or where its table would replace the data.

    Args:
        out: the folder of the page.
        source: the data's name, folder or file.

    Raises:
        SettingError: it is such a folder.
    """
    if out.is_file() or Path(source).absolute() == (out / "suspects.csv").absolute():
        raise SettingError(
            f"The page needs a folder of its own, and cannot have {out}. Name another: "
            f"--out {shlex.quote(f'{out}-page')}"
        )
