"""The command nn-search: the nearest training images of samples, or of a person's own images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import Device, Json, OneSize, Outputs, OwnImages, Range, RunName, SubjectName
from memgen.cli.root import app
from memgen.cli.shared import existing, finish, largest_size, own_images
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.measure import Reference
    from memgen.experiment.workspace import Workspace


PANEL = "Measures"
_QUERIES_SHOWN = 20


@app.command("nn-search", rich_help_panel=PANEL)
def nn_search(
    queries: OwnImages = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="Images that are searched: train_a, train_b, holdout, or own (what --subject was trained on). "
            "Default: train_a, or own with --subject."
        ),
    ] = None,
    n_train: OneSize = None,
    k: Annotated[int | None, typer.Option(min=1, help="Neighbors of each query. Default: as in the settings.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Space in which images are compared, such as correlation or rmse. Default: as in the settings."
        ),
    ] = None,
    subject: SubjectName = None,
    value_range: Range = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Also rank the neighbors by LPIPS, with the weights of its trunk in this file.")
    ] = None,
    lpips_net: Annotated[str, typer.Option(help="Which trunk that is: alex or vgg.")] = "alex",
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the nearest training images of samples, or of your own images.

    The nearest training images of held-out images are shown for comparison. The samples are those of the model that was
    trained on the half searched, unless --subject names another subject.

    Your own images are prepared as the run's images were, and drawn beside their neighbors under report/figures/.
    """
    from memgen.experiment import measure, present, subjects

    workspace = existing(outputs, run, device)
    if subject is None and index == "own":
        raise ConfigError(
            "--index own: expected --subject with the name of the subject whose training set is searched."
        )
    if subject is not None and queries is not None and index not in (None, "own"):
        raise ConfigError(
            f"--index {index}: --subject has no effect on a search for your own images there. Leave out "
            f"--subject, or give --index own."
        )
    owner = None
    if subject is not None and index in (None, "own"):
        if n_train is not None:
            raise ConfigError(f"--n {n_train}: the training set of {subject} has a size of its own. Leave out --n.")
        owner = subjects.find(workspace, subject)
        reference = measure.own_reference(owner)
    else:
        reference = measure.reference(workspace, index or "train_a", n_train or largest_size(workspace))
    with workspace.run.working():
        images, result = None, dict[str, Any]()
        if queries is not None:
            images, result = own_images(workspace, queries, value_range)
            table = measure.search_images(workspace, images, reference, metric, k)
            drawn = present.draw_neighbors(workspace, images, reference, table)
            result |= {"picture": drawn[0]}
        else:
            name = subject or _trained_on(workspace, reference, n_train)
            table = measure.search_samples(workspace, name, reference, metric, k)
        null, unseen = None, None
        if owner is not None:
            null = measure.search_held_out(owner, reference, metric, k if lpips else None)
            unseen = None if owner.identity.role == "cell" else owner.held_out
        elif reference.name != "holdout":
            null = measure.search_holdout(workspace, reference, metric, k if lpips else None)
        _show_neighbors(table, null, reference)
        result |= {"neighbors": table.to_pylist()} if as_json else {}
        if lpips is not None:
            if null is not None:  # as many images as there are queries, since LPIPS costs far more than the search
                null = measure.rerank(workspace, reference, null.slice(0, len(table)), lpips, lpips_net, unseen)
            table = measure.rerank(workspace, reference, table, lpips, lpips_net, images)
            _show_neighbors(table, null, reference)
            result |= {"reranked": table.to_pylist()} if as_json else {}
    finish(as_json, result.get("picture", workspace.run.path / "tables"), **result)


def _trained_on(workspace: "Workspace", reference: "Reference", n_train: int | None) -> str:
    """Name of the cell that was trained on a reference; for the holdout, of the one on part a."""
    size = reference.n_train or n_train or largest_size(workspace)
    part = "b" if reference.name == "train_b" else "a"
    return runs.Cell(size, min(workspace.settings.sweep.train_seeds), part).name


def _show_neighbors(table: Any, null: Any, reference: "Reference") -> None:
    import numpy as np

    from memgen.cli import terminal

    rows = [row for row in table.to_pylist() if row["rank"] == 1]
    shown = [
        [row["query_source"] or row["query"], row["reference_source"] or row["reference_id"], row["value"]]
        for row in rows[:_QUERIES_SHOWN]
    ]
    values = [row["value"] for row in rows if row["value"] is not None]
    note = f"median of {len(rows)} queries: {np.median(values):.4f}" if values else "no value is defined"
    if null is not None:
        held = [row["value"] for row in null.to_pylist() if row["rank"] == 1 and row["value"] is not None]
        note += f"; for comparison, median of {len(held)} held-out images: {np.median(held):.4f}"
    metric = rows[0]["metric"] if rows else ""
    size = "" if reference.n_train is None else f" (N = {reference.n_train:,})"
    title = f"nearest images in {reference.name}{size}, the first {len(shown)} queries"
    query = "sample" if rows and rows[0]["query_kind"] == "sample" else "query"
    terminal.table(title, [query, "nearest image", metric], shown, note)
