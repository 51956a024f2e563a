"""What the pages share: the template, the script and its data, and the policy that forbids every request.

A page is one file. Its words, tables and still pictures can be read without scripts. Where there is something to
select, the page also carries the libraries Vega and Vega-Lite, one script of ours, and its data. All that comes from
files is escaped, in the markup and in the data, and the policy of the page lets only these two scripts run.
"""

import base64
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import vl_convert
from markupsafe import Markup

from memgen.report import charts, markup
from memgen.report.charts import Spec
from memgen.report.tiles import ACROSS, PER_SHEET, Tiles


def render(
    template: str,
    data: Mapping[str, Any],
    specs: Mapping[str, Spec],
    stills: Mapping[str, str],
    packed: Tiles,
    **values: Any,
) -> str:
    """A whole page as one string.

    Args:
        template: name of the template.
        data: what the script reads besides charts and tiles.
        specs: charts by name, which the script draws.
        stills: the same charts as SVG, which stand on the page before that, on paper, and without scripts.
        packed: the tiles that the data refer to by number.
        values: what the template needs.
    """
    scripts = [_runtime(), _script()] if specs or any(data.values()) else []
    width, height = packed.size()
    tile = {"width": width, "height": height, "across": ACROSS, "per_sheet": PER_SHEET}
    whole = {**data, "charts": specs, "dark": charts.dark(specs.values()), "tile": tile}
    return markup.template(template).render(
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        data=embedded(whole) if scripts else "",
        sheets=_addresses(packed.sheets()) if scripts else [],
        stills={name: address(drawing.encode()) for name, drawing in stills.items()},
        descriptions={name: spec["description"] for name, spec in specs.items()},
        **values,
    )


def embedded(value: Any) -> Markup:
    """A value as JSON that stands in a script element; no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def address(drawing: bytes) -> str:
    """An SVG as a data address, which loads nothing and stays sharp on any screen."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()


def _addresses(sheets: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(sheet).decode() for sheet in sheets]


@functools.cache
def _runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed, as a script that can stand in a page."""
    return re.sub(
        r"<(?=/script|!--)",
        r"\\x3c",
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        flags=re.IGNORECASE,
    )


@functools.cache
def _script() -> str:
    return (importlib.resources.files("memgen.report") / "templates" / "page.js").read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """A policy that forbids every request, and every script except these."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src {allowed}"
    )
