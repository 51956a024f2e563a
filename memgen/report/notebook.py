"""What a notebook shows of a result: the answer, the main numbers, and a link to the page.

The colors are those of the notebook, light or dark. All texts are escaped.
"""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import jinja2

from memgen.findings.headlines import Numbers


def render(headline: str, sentences: Sequence[str], numbers: Numbers, page: Path | None) -> str:
    """A result as a piece of HTML.

    Args:
        headline: the answer.
        sentences: what it rests on.
        numbers: the main ones.
        page: the page of the run; None where there is none.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memgen.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    address = None if page is None else urllib.parse.quote(Path(os.path.relpath(page)).as_posix())
    return environment.get_template("notebook.html.j2").render(
        headline=headline, sentences=sentences, numbers=numbers, page=page, address=address
    )
