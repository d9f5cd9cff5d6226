"""Links between the repository's files, in its Markdown: the file is there, and so is the heading.

Links to the repository's public address are taken for links to the files of this checkout.
"""

import itertools
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PUBLISHED = re.compile(
    "https://github.com/mofo-developers/mofo/(?:blob|tree|raw)/main/"
    "|https://raw.githubusercontent.com/mofo-developers/mofo/main/"
)
ADDRESS = re.compile(r'(?:href|src|srcset)="([^"]+)"')

if not (ROOT / ".git").exists():
    pytest.skip("a source distribution has a part of the files that are linked", allow_module_level=True)

PAGES = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def tokens_of(page):
    tokens = MarkdownIt().enable("table").parse((ROOT / page).read_text("utf-8"))
    return tokens, [child for token in tokens for child in token.children or ()]


def anchors_of(page):
    """The names that GitHub gives to the headings of a page."""
    tokens, _ = tokens_of(page)
    anchors = set()
    for opening, heading in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in heading.children if part.type in ("text", "code_inline"))
            anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            anchors.add(next(name for n in range(99) if (name := f"{anchor}-{n}" if n else anchor) not in anchors))
    return anchors


def links_of(page):
    tokens, inline = tokens_of(page)
    for token in [*tokens, *inline]:
        yield from (str(token.attrs[key]) for key in ("href", "src") if key in token.attrs)
        if token.type in ("html_block", "html_inline"):
            yield from ADDRESS.findall(token.content)


def is_broken(page, link):
    published = PUBLISHED.match(link)
    url = urlsplit(link[published.end() :] if published else link)
    if url.scheme or url.netloc:
        return False
    folder = ROOT if published else (ROOT / page).parent
    target = folder / unquote(url.path) if url.path else ROOT / page
    return not target.exists() or (url.fragment and url.fragment not in anchors_of(target))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    assert not [link for link in links_of(page) if is_broken(page, link)]
