"""What readers call the models of a run, and the order in which they see them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import wording


def model(row: Mapping[str, Any]) -> str:
    """What readers call the model of a row: `N = 64, model A`, with its training seed if that is not 0, or its name."""
    if row["role"] != "cell":
        return str(row["subject"])
    seed = f", seed {row['train_seed']}" if row["train_seed"] else ""
    return f"{wording.subject_label('cell', row['n_train'], None)}, model {row['part'].upper()}{seed}"


def by_model(table: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The rows of each model of a table: the cells of a sweep in ascending order of N, then imported models by name.

    Yields:
        The columns subject, role, n_train, train_seed and part of the model, and its rows in the order of the table.
    """
    names = ["role", "n_train", "train_seed", "part", "subject"]
    found = table.group_by(names, use_threads=False).aggregate([]).to_pylist()
    cells = sorted((row for row in found if row["role"] == "cell"), key=lambda row: [row[name] for name in names[1:4]])
    others = sorted((row for row in found if row["role"] != "cell"), key=lambda row: row["subject"])
    for row in (*cells, *others):
        yield row, table.filter(pc.field("subject") == row["subject"])


def panel(key: int | str) -> str:
    """What readers call what is shown at one N, or of one imported subject: `N = 64`, or the subject's name."""
    return key if isinstance(key, str) else wording.subject_label("cell", key, None)


def panel_of(row: Mapping[str, Any]) -> str:
    """The panel that a row belongs to, by its role, N and subject."""
    return panel(row["n_train"] if row["role"] == "cell" else row["subject"])


def panel_order(key: int | str) -> tuple[bool, int | str]:
    """Sorts training-set sizes in ascending order, and after them imported subjects by name."""
    return isinstance(key, str), key
