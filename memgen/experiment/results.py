"""What results of a run have in common: they show themselves in a notebook, and give their tables."""

import difflib
from abc import ABC, abstractmethod
from typing import Any, Literal

from memgen.base import optional, schemas
from memgen.base.errors import ConfigError, RunError
from memgen.experiment import runs
from memgen.findings.headlines import Numbers
from memgen.report import notebook

As = Literal["arrow", "pandas", "polars"]


class Result(ABC):
    """A result that stands in a run. In a notebook it shows the answer, the main numbers and a link to the page."""

    @property
    @abstractmethod
    def run(self) -> runs.Run:
        """The run."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The answer in a sentence or two."""

    @abstractmethod
    def _sentences(self) -> tuple[str, ...]:
        """What the answer rests on."""

    @abstractmethod
    def _numbers(self) -> Numbers:
        """The main numbers."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run.path}: {self.headline}>"

    def _repr_html_(self) -> str:
        page = self.run.report / "report.html"
        return notebook.render(self.headline, self._sentences(), self._numbers(), page if page.exists() else None)

    @property
    def tables(self) -> list[str]:
        """The kinds of tables that the run has."""
        return [kind for kind in schemas.KINDS if self.run.table_names(kind)]

    def table(self, kind: str, as_: As = "arrow") -> Any:
        """All rows of one kind of table; `memgen.base.schemas` says what its columns are.

        Args:
            kind: one of `tables`, such as psnr or neighbors.
            as_: arrow for a pyarrow.Table, whose schema holds the unit and the meaning of each column; pandas for a
                pandas.DataFrame, as pyarrow makes it; polars for a polars.DataFrame. The rows and their order are the
                same. In pandas, whole numbers become floats in columns with gaps.

        Raises:
            ConfigError: there is no such kind of table or of frame, or its package is not installed.
            RunError: the run has no table of that kind.
            DataError: a table is damaged.
        """
        check_name("table", kind, list(schemas.KINDS))
        if kind not in self.tables:
            raise RunError(f"{self.run.path} has no table {kind!r}; it has: {', '.join(self.tables)}.")
        found = self.run.table(kind)
        if as_ == "arrow":
            return found
        if as_ == "pandas":
            optional.package("pandas", "notebook", "A table as pandas")
            return found.to_pandas()
        if as_ == "polars":
            return optional.package("polars", "notebook", "A table as polars").from_arrow(found)
        raise ConfigError(f"as_={as_!r}: expected arrow, pandas or polars.")


def check_name(what: str, name: str, known: list[str]) -> None:
    """Check that there is something of that name.

    Raises:
        ConfigError: there is not; the message names the nearest one.
    """
    if name not in known:
        match = difflib.get_close_matches(name, known, n=1)
        meant = f" Did you mean {match[0]!r}?" if match else ""
        raise ConfigError(f"found no {what} {name!r}; expected one of: {', '.join(known)}.{meant}")
