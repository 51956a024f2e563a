"""What a notebook shows of a result: the answer, the main numbers, and a link to the page.

The colors are those of the notebook, light or dark. All texts are escaped.
"""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from memgen.findings.headlines import Numbers
from memgen.report import markup


def render(headline: str, sentences: Sequence[str], numbers: Numbers, page: Path | None) -> str:
    """A result as a piece of HTML.

    Args:
        headline: the answer.
        sentences: what it rests on.
        numbers: the main ones.
        page: the page of the run; None where there is none.
    """
    address = None if page is None else urllib.parse.quote(Path(os.path.relpath(page)).as_posix())
    return markup.template("notebook.html.j2").render(
        headline=headline, sentences=sentences, numbers=numbers, page=page, address=address
    )
