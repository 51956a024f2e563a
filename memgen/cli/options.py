"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


_RUN, _SETTINGS = "Which run", "New run"
Outputs = Annotated[Path, typer.Option(help="Folder that holds the runs.", rich_help_panel=_RUN)]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name of the run; the newest if absent.", rich_help_panel=_RUN)
]
NewName = Annotated[
    str | None,
    typer.Option("--run", help="Name of the run, new or not; made from the settings if absent.", rich_help_panel=_RUN),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:0; auto = cuda where there is one.")]
Seed = Annotated[int | None, typer.Option(help="Seed of split and noise; that of the run if absent.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON.")]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file of settings (see configs/).", rich_help_panel=_SETTINGS)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="One setting, such as train.images_seen=4096; may be repeated.", rich_help_panel=_SETTINGS
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Read the images, show settings, time and disk needed; write nothing.",
        rich_help_panel=_SETTINGS,
    ),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes; as many as CPU cores if absent, 1 on a GPU.")]
Size = Annotated[list[int] | None, typer.Option("--n", help="Training-set size N; may be repeated. Largest if absent.")]
OneSize = Annotated[int | None, typer.Option("--n", help="Training-set size N; the largest if absent.")]
Part = Annotated[str | None, typer.Option(help="Part a or b; both if absent.")]
