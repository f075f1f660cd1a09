"""Texts, tables and pictures as HTML, and the page around them.

The page is one file that loads nothing and opens offline.
"""

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template

from ulmfit_app.evaluation.messages import (
    ENGLISH,
    TAGS,
    known,
    say,
    spoken,
    translated,
)
from ulmfit_app.evaluation.scripts import first_characters, script_of

MAX_NAME = 80  # characters of a class name

# Whatever stands in a text, the policy in the third line keeps the page from loading anything, and
# from running any script but the one whose hash it names.
PAGE = Template("""<!DOCTYPE html>
<html lang="$language"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style></head><body$words><main>
<h1>$title</h1>
<p class="test">$about</p>
$body
</main>$script</body></html>
""")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(
    title: str, about: str, sections: list[str], script: str = "", language: str = ""
) -> str:
    """The page as HTML, with its own words in the language that is spoken.

    Args:
        title: text of the heading.
        about: text below it.
        sections: HTML.
        script: JavaScript that runs when all else is there.
        language: of the texts that it shows, as `lang` has it; "": that of its own words.
    """
    policy = POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, script = f"{POLICY}; script-src 'sha256-{digest}'", f"<script>{script}</script>\n"
    language, own = language or TAGS[spoken()], lang(TAGS[spoken()])
    shown = dict(title=text(title), about=text(about), body="\n".join(sections))
    shown |= {"language": text(language), "words": own if language != TAGS[spoken()] else ""}
    return PAGE.substitute(shown, policy=policy, style=page_file("page.css"), script=script)


def page_file(name: str) -> str:
    """One of the files beside this one that the page is made of."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def lang(tag: str) -> str:
    """The attribute of an element whose text is in another language than what is around it."""
    return f' lang="{text(tag)}"' if tag else ""


def listed(notes: list[str], heading: str = "") -> str:
    """Sentences as a list, below a heading if one is given; "" without sentences.

    Those that have no translation are marked as English.
    """
    head = f"<h3>{text(heading)}</h3>" if heading else ""
    items = "".join(f"<li{in_english(note)}>{text(known(note))}</li>" for note in notes)
    return f"{head}<ul>{items}</ul>" if notes else ""


def in_english(note: str) -> str:
    """`lang` of what is in English where that is not what is spoken."""
    as_it_is = spoken() != ENGLISH and known(note) == note
    return lang(TAGS[ENGLISH]) if as_it_is else ""


def table(heads: list[str], rows: list[list[str]], names: tuple[int, ...] = (0,)) -> str:
    """A table as HTML.

    Args:
        heads: texts of the header.
        rows: texts of the cells.
        names: indices of the columns that hold names, aligned left; all others hold numbers.
    """

    def cell(tag: str, column: int, content: str) -> str:
        number = lang_of(content) if column in names else ' class="number"'
        return f'<{tag}{number} dir="auto">{text(cut(content, MAX_NAME))}</{tag}>'

    head = "".join(cell("th", column, content) for column, content in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            cell("th" if column in names else "td", column, content)
            for column, content in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    # What can be scrolled has to be reached by keys, too.
    box = "wide tall" if len(rows) > 25 else "wide"
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="{box}" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'


def picture(name: str, png: bytes, caption: str = "") -> str:
    """A picture inside the page, at its size in inches.

    Args:
        name: what it shows, for those who cannot see it; underscores stand for spaces.
        png: the file's bytes, of 150 dots per inch; the page has 96.
        caption: text below it.
    """
    caption = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    width = int.from_bytes(png[16:20], "big") * 96 // 150
    alternative = text(known(name.replace("_", " ")))
    return (
        f'<figure><div class="wide" tabindex="0"><img width="{width}" style="--width: {width}px" '
        f'alt="{alternative}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"</div>{caption}</figure>"
    )


def class_name(of: str) -> str:
    """A class name within a sentence, written from left to right or from right to left."""
    return f"<bdi{lang_of(of)}>{text(cut(of, MAX_NAME))}</bdi>"


def lang_of(name: str) -> str:
    """The attribute of a name in a script of East Asia that is not that of the page's words."""
    script = script_of(translated(name))
    return "" if TAGS[spoken()].startswith(script) else lang(script)


def cut(long: str, length: int) -> str:
    """The text on one line; where it is cut to `length` characters, its whole length behind it."""
    long = " ".join(translated(long).split())
    if len(long) <= length:
        return long
    begun = first_characters(long, length)
    return say("{begun} … ({n:,} characters in all)", begun=begun, n=len(long))


def text(shown: str) -> str:
    """A text that HTML shows as it is, a lone surrogate as its escape; a Message translated."""
    return escape(translated(shown).encode("utf-8", errors="backslashreplace").decode())


def interval(scores: dict, of: str = "accuracy") -> str:
    """The 95 % interval beside a number. scores: with the key `of` and _ci95."""
    low, high = scores[f"{of}_ci95"]
    return say("{low:.1%} to {high:.1%}", low=low, high=high)


def percent(probability: float) -> str:
    """One decimal; what is not quite certain is not shown as if it were."""
    if 0.9995 <= probability < 1:
        return say("over 99.9%")
    return say("under 0.1%") if 0 < probability < 0.0005 else f"{probability:.1%}"
