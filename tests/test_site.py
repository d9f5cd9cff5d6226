"""The site that `make docs` builds: strictly, from the source, and without asking other hosts for anything."""

import logging
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

import mofo.trainers
from mofo.measure.kinds import KINDS
from mofo.measure.listing import kind_info
from mofo.methods.listing import part_info
from mofo.methods.parts import PARTS
from mofo.optim.rule import update

ROOT = Path(__file__).parents[1]

if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("a source distribution has no site", allow_module_level=True)


def build_site(folder, **settings):
    logging.disable(logging.NOTSET)  # warnings make a build fail, and tests of commands have switched them off
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True, **settings)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_site(tmp_path_factory.mktemp("site"))


class Reader(HTMLParser):
    """Collects the text of a page, and what a browser loads to show it."""

    def __init__(self, page):
        super().__init__()
        self.text = ""
        self.loaded = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("img", "script", "source", "iframe", "video") and "src" in attrs:
            self.loaded.append(attrs["src"])
        if tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attrs["href"])


def words(text):
    """The words of Markdown or of a page's text: both without marks and breaks."""
    return " ".join(re.sub(r"[`*]", "", text).split())


def test_every_part_has_a_page_with_all_that_is_known_of_it(site):
    for part in PARTS:
        info = part_info(part)
        text = words(Reader(site / "methods" / f"{part.name}.html").text)
        assert words(info["description"]) in text
        assert words(info["cost"]) in text
        for setting, value in info["settings"].items():
            assert f"{setting} {value['default']}".strip() in text
            assert words(value["description"]) in text
        assert words(info["source"]) in text


def test_every_probe_has_a_page_with_all_that_is_known_of_it(site):
    for kind in KINDS:
        info = kind_info(kind)
        text = words(Reader(site / "probes" / f"{kind}.html").text)
        for known in (info["description"], info["numbers"], info["better"], info["cost"], *info["usage"]):
            assert words(known) in text


def test_algorithm_is_the_source_in_forty_lines(site):
    text = Reader(site / "algorithm.html").text
    source = Path(update.__file__).read_text(encoding="utf-8")
    formulas = re.findall(r"^    (\S.*)$", source.partition('"""')[2].partition('"""')[0], re.MULTILINE)
    assert formulas
    assert all(line in text for line in formulas)
    code = text[text.index("def update(") :].splitlines()
    shown = [line for line in code if line and line in source.splitlines()]
    assert "    operands.step.add_(1)" in shown
    assert "    param.copy_(torch.where(selected, new, param))" in shown
    assert len(shown) <= 40


def test_reference_describes_all_public_names(site):
    pages = [page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")]
    names = [name for name in mofo.__all__ if name != "__version__"]
    for name in [*(f"mofo.{name}" for name in names), *(f"mofo.trainers.{name}" for name in mofo.trainers.__all__)]:
        assert any(f'id="{name}"' in page for page in pages), name
    assert any("only the entries with the largest momentum, so that" in page for page in pages)


def test_pages_load_nothing_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert {"index.html", "guide.html", "changelog.html"} <= {page.name for page in pages}
    for page in pages:
        reader = Reader(page)
        assert any(address.endswith(".css") for address in reader.loaded)
        assert not [address for address in reader.loaded if re.match(r"(\w+:)?//", address)], page
        assert 'data-md-component="source"' not in page.read_text(encoding="utf-8"), "it asks GitHub for stars"


def test_links_that_lead_nowhere_and_pages_that_nothing_leads_to_are_refused(tmp_path, caplog):
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    nowhere = ["guide.md#no-such-heading", "no-such-page.md", "../src/mofo/no_such_file.py"]
    page = docs / "guide.md"
    page.write_text(page.read_text("utf-8") + "".join(f"\n[nowhere]({link})\n" for link in nowhere), "utf-8")
    (docs / "unlisted.md").write_text("# Nothing leads here\n", "utf-8")
    with pytest.raises(Abort):
        build_site(tmp_path / "site", docs_dir=str(docs), plugins=[])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for name in ("no-such-heading", "no-such-page.md", "src/mofo/no_such_file.py", "unlisted.md"):
        assert any(name in warning for warning in warnings)
