"""What the site adds to the pages in docs/: pages made from the source, code in the text, and links out of docs/.

mkdocs calls the functions named `on_...`. Whatever does not lead anywhere is a warning, which `make docs` refuses.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

import mofo.trainers
from mofo.measure.kinds import KINDS
from mofo.measure.listing import kind_info
from mofo.methods.listing import part_info
from mofo.methods.parts import PARTS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

    from mofo.methods.part import Part

ROOT = Path(__file__).parent
REPOSITORY = "https://github.com/mofo-developers/mofo"

ELSEWHERE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site whose text lies outside docs/."""

REFERENCE = {
    "The optimizer": ["mofo.MoFO", "mofo.param_groups", "mofo.CPUOffload", "mofo.backends"],
    "In trainers of transformers and trl": [f"mofo.trainers.{name}" for name in mofo.trainers.__all__],
    "In Lightning": ["mofo.trainers.lightning.ForgettingCallback", "mofo.trainers.lightning.ExtrasCallback"],
}
"""What each page of the reference describes, from docstrings."""

FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?(\))")
CODE = re.compile(r"^<!-- code: (\S+)(?: (\w+))? -->$", re.MULTILINE)
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")

log = get_plugin_logger("site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the source, and put all pages of a folder where the navigation names it."""
    for uri, text in made_pages():
        files.append(File.generated(config, uri, content=text))
    pages = sorted((file.src_uri for file in files.documentation_pages()), key=_order)
    config.nav = _expanded(config.nav or [], pages)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the code that the text asks for, and lead links to files outside docs/ to the repository."""
    markdown = CODE.sub(lambda marker: code_of(*marker.groups()), markdown)
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _led(link, page, config, files), text) for text in parts[::2]]
    return "".join(parts)


def made_pages() -> Iterator[tuple[str, str]]:
    """Yield the place and the Markdown of each page that is not in docs/."""
    yield "methods/index.md", methods_page()
    for part in PARTS:
        yield f"methods/{part.name}.md", part_page(part)
    yield "probes/index.md", probes_page()
    for kind in KINDS:
        yield f"probes/{kind}.md", probe_page(kind)
    for title, names in REFERENCE.items():
        yield f"reference/{_file_name(title)}.md", "\n".join([f"# {title}\n", *(f"::: {name}\n" for name in names)])
    for uri, path in ELSEWHERE.items():
        yield uri, (ROOT / path).read_text(encoding="utf-8")


def methods_page() -> str:
    """Return the list of all methods, which `mofo methods` prints."""
    infos = [part_info(part) for part in PARTS]
    lines = [
        "# Methods",
        "",
        "A method is an optimizer and any number of extras, such as `mofo+self-distill`. These pages say what",
        "`mofo methods NAME` prints. What each was measured to learn and to forget is in the",
        "[results](../results/gsm8k.md); `mofo compare` measures it on your data. How to",
        "[add one](../../CONTRIBUTING.md#add-a-method).",
    ]
    for kind, title in (("optimizer", "Optimizers"), ("extra", "Extras")):
        rows = [
            [f"[{info['name']}]({info['name']}.md)", info["description"].splitlines()[0], _cited(info["source"])]
            for info in infos
            if info["kind"] == kind
        ]
        lines += ["", f"## {title}", "", *_table(["name", "what it does", "source"], rows)]
    return "\n".join(lines)


def part_page(part: type[Part]) -> str:
    """Return the page of an optimizer or extra: what `mofo methods NAME` prints."""
    info = part_info(part)
    name, others = info["name"], "" if info["name"] == "adamw" else "adamw,"
    path = _path_of(part)
    lines = [f"# {info['label']}", "", f"`{name}`, an {info['kind']}, {_cited(info['source'])}.", ""]
    lines += [info["description"], ""]
    lines += [f"**Cost beside AdamW:** {info['cost']}.", ""] if info["cost"] else []
    if info["settings"]:
        rows = [
            [f"`{setting}`", f"`{value['default']!s}`" if value["default"] != "" else "", value["description"]]
            for setting, value in info["settings"].items()
        ]
        lines += ["## Settings", "", *_table(["setting", "default", "meaning"], rows), ""]
    method = name if info["kind"] == "optimizer" else f"adamw+{name}"
    lines += ["## Try it", "", "```bash", f"mofo compare --data data.jsonl --methods {others}{method}", "```", ""]
    return "\n".join([*lines, f"The code is in [{path}](../../{path})."])


def probes_page() -> str:
    """Return the list of all probes, which `mofo probes` prints."""
    rows = []
    for kind in KINDS:
        info = kind_info(kind)
        rows.append([f"[{kind}]({kind}.md)", info["description"].splitlines()[0], info["better"], info["cost"]])
    return "\n".join(
        [
            "# Probes",
            "",
            "A probe measures what a model knew and may have forgotten. `mofo measure`, `mofo compare` and",
            "`ForgettingCallback` take them; these pages say what `mofo probes NAME` prints.",
            "[Which probe when](../measuring.md#which-probe-when), and how to",
            "[add one](../../CONTRIBUTING.md#add-a-probe).",
            "",
            *_table(["name", "what it measures", "better", "cost"], rows),
        ]
    )


def probe_page(kind: str) -> str:
    """Return the page of a probe: what `mofo probes NAME` prints."""
    info = kind_info(kind)
    path = _path_of(KINDS[kind])
    lines = [f"# {kind}", "", info["description"], ""]
    lines += [f"**Numbers:** {info['numbers']}; {info['better']} is better.", ""]
    lines += [f"**Cost:** {info['cost']}.", "", "## Try it", "", "```bash"]
    lines += [f"mofo measure --base BASE --tuned TUNED --probes {usage}" for usage in info["usage"]]
    return "\n".join([*lines, "```", "", f"The code is in [{path}](../../{path})."])


def code_of(path: str, name: str | None) -> str:
    """Return the code of a function of a file, without its docstring; without a name the formulas of the file.

    Raises:
        PluginError: The file has no such function.
    """
    source = (ROOT / path).read_text(encoding="utf-8")
    module = ast.parse(source)
    if name is None:
        return "\n\n".join(block for block in (ast.get_docstring(module) or "").split("\n\n") if block[0] == " ")
    function = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    if function is None:
        raise PluginError(f"{path} has no function {name!r}, which a page in docs/ shows.")
    lines = source.splitlines()
    start, end = function.lineno - 1, function.end_lineno
    if ast.get_docstring(function):
        documented = function.body[0]
        lines[documented.lineno - 1 : documented.end_lineno] = []
        end = (end or 0) - ((documented.end_lineno or 0) - documented.lineno + 1)
    return "\n".join(["```python", *lines[start:end], "```"])


def _led(link: re.Match[str], page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a link of a page with the address that its file has for readers of the site."""
    opening, target, anchor, closing = link.groups(default="")
    uri = page.file.src_uri
    here = ELSEWHERE.get(uri, f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    inside = {"docs/": "docs", **{there: place for place, there in ELSEWHERE.items()}}
    if path.startswith("docs/") or path in inside:
        place = inside.get(path, path.removeprefix("docs/"))
    elif not (ROOT / path).exists():
        log.warning("%s links to %s, which is not there.", here, path)
        return link[0]
    elif path.endswith((".png", ".svg", ".webp")):
        place = f"pictures/{path}"
        if place not in files.src_uris:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    else:
        return f"{opening}{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}{anchor}{closing}"
    return f"{opening}{posixpath.relpath(place, posixpath.dirname(uri) or '.')}{anchor}{closing}"


def _expanded(entry: Any, pages: list[str]) -> Any:
    """Return an entry of the navigation with a folder's pages in the place of its name."""
    if isinstance(entry, dict):
        return {title: _expanded(value, pages) for title, value in entry.items()}
    if isinstance(entry, list):
        expanded = [_expanded(value, pages) for value in entry]
        return [leaf for value in expanded for leaf in (value if isinstance(value, list) else [value])]
    return [page for page in pages if posixpath.dirname(page) + "/" == entry] if entry.endswith("/") else entry


def _order(uri: str) -> tuple[str, bool, int, str]:
    """Sort a folder's index first, what is made from the source as it is listed there, everything else by name."""
    folder, name = posixpath.dirname(uri), posixpath.basename(uri).removesuffix(".md")
    names = {"methods": [part.name for part in PARTS], "probes": [*KINDS], "reference": [*map(_file_name, REFERENCE)]}
    listed = names.get(folder, [])
    return folder, name != "index", listed.index(name) if name in listed else 0, name


def _file_name(title: str) -> str:
    return title.lower().replace(" ", "-")


def _path_of(described: type) -> str:
    """Return where the code of a class is; of one that was made by a call, where its nearest ancestor's is."""
    written = next(kind for kind in described.__mro__ if kind.__module__.startswith("mofo."))
    return f"src/{written.__module__.replace('.', '/')}.py"


def _cited(source: str) -> str:
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
