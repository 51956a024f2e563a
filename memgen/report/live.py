"""What stands at the top of a page of work that is under way, and a page of nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from memgen.report import markup


@dataclass(frozen=True)
class Live:
    """The state of work under way.

    Attributes:
        lines: sentences.
        columns: heads of a table.
        rows: its cells, as people read them.
        refresh: seconds after which a browser loads the page again; None if the page will not change.
        then: the page that a browser goes to; None for the same page.
    """

    lines: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    refresh: int | None = None
    then: str | None = None


def render(title: str, live: Live) -> str:
    """A page that shows the state alone, for work that has found nothing yet."""
    return markup.template("live.html.j2").render(title=title, live=live)


def section(live: Live) -> str:
    """The part of a page that shows the state, as it stands in every page that is given one."""
    return markup.template("live_state.html.j2").render(live=live)
