"""Pages from the templates of this folder, with their figures inside."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mofo.report.figures import for_dark_page, svg


def render(template: str, **values: Any) -> str:
    """Return the page of a template of this folder."""
    environment = Environment(
        loader=PackageLoader("mofo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = svg
    environment.filters["for_dark_page"] = for_dark_page
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


def _data_uri(picture: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()
