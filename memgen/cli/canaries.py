"""The command that plants canaries."""

from pathlib import Path
from typing import Annotated

import typer

from memgen.cli.options import Json, Seed
from memgen.cli.root import canaries_app
from memgen.cli.shared import finish, note


@canaries_app.command("plant")
def canaries_plant(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures that a model will be trained on.")],
    kept: Annotated[Path, typer.Option(help="Folder that the kept half of the canaries is moved to.")],
    n: Annotated[int, typer.Option("--n", min=2, help="Number of canaries, even. Half of them are kept.")] = 50,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Set aside random images before a model is trained, so that an audit can test exactly whether it copies.

    Half of the images stay in the folder to be trained on. The other half is moved to the folder --kept. After the
    training, give memgen audit the file canaries.json of that folder with --canaries.
    """
    from memgen.experiment import canaries

    found = canaries.plant(folder, kept, n, seed or 0)
    note(f"{len(found.trained)} canaries stay in {folder}, and {len(found.kept)} were moved to {kept}.")
    finish(as_json, kept / canaries.PLAN, trained=len(found.trained), kept=len(found.kept))
