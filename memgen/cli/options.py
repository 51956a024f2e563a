"""Options that several commands share: each is declared once, with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_RUN, _SETTINGS = "Which run", "Settings of a new run"
Outputs = Annotated[Path, typer.Option(help="Folder that holds the runs.", rich_help_panel=_RUN)]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name of the run. Default: the newest run.", rich_help_panel=_RUN)
]
NewName = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Name of the run. A run of this name is continued if it exists. Default: a name made from the settings.",
        rich_help_panel=_RUN,
    ),
]
Device = Annotated[
    str, typer.Option(help="Where networks run: auto, cpu, cuda or cuda:0. auto uses a CUDA device if there is one.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the split and of the noise. Default: 0.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result on standard output as JSON.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file of settings; see the folder configs/.", rich_help_panel=_SETTINGS),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting, such as train.images_seen=4096. May be given several times.",
        rich_help_panel=_SETTINGS,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Read the images and show the settings, the split, and the time and disk space that a sweep needs, but "
        "write nothing.",
        rich_help_panel=_SETTINGS,
    ),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes. Default: one for each CPU core, or 1 on a GPU.")
]
TasksAtATime = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Number of worker processes. Default: one for each CPU core, or 1 on a GPU. For the executors ray and "
        "slurm: most tasks at a time. Default there: 4 for each CPU of the cluster, or 256 jobs.",
    ),
]
SearchesAtATime = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        help="Searches at the same time. Default: one, with all CPU cores. For the executors ray and slurm: most tasks "
        "at a time.",
    ),
]
Executor = Annotated[
    Literal["local", "ray", "slurm"],
    typer.Option(
        help="What does the work: local (processes on this machine), ray (a Ray cluster) or slurm (jobs of SLURM). The "
        "result is the same. The folder of the runs must be one that all machines share.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: a cluster that runs on this machine, or "
        "else one that is started for this command. For slurm: local runs the jobs on this machine.",
    ),
]
Sizes = Annotated[
    list[int] | None,
    typer.Option("--n", min=1, help="Training-set size N. May be given several times. Default: the largest trained N."),
]
EverySize = Annotated[
    list[int] | None,
    typer.Option("--n", min=1, help="Training-set size N. May be given several times. Default: every N."),
]
OneSize = Annotated[int | None, typer.Option("--n", min=1, help="Training-set size N. Default: the largest trained N.")]
Part = Annotated[str | None, typer.Option(help="Half of the images, a or b. Default: both.")]
SubjectName = Annotated[
    str | None,
    typer.Option("--subject", help="Name of one subject, trained or imported; memgen subjects lists them."),
]
Label = Annotated[int | None, typer.Option(min=0, help="Class that is denoised, of a model of classes.")]
Condition = Annotated[
    Path | None,
    typer.Option(help="What a text encoder made of the text, for a model of texts: FILE.npy of shape (tokens, width)."),
]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, help="Weight of classifier-free guidance by the label or the condition; 1 is none."),
]
Scheduler = Annotated[
    Path | None,
    typer.Option(help="Folder with the scheduler_config.json of a model of diffusers, if it does not lie beside it."),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Let code of the model run: a pickle of EDM, or package.module:function. It can read, change and send "
        "whatever you can.",
    ),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        help="The values that become black and white, such as 0,4095 or -1,1. Default: what the files state, or the "
        "range given for the run's images.",
    ),
]
OwnImages = Annotated[
    Path | None,
    typer.Argument(
        help="Your own images: a picture, a folder or ZIP of pictures, or an array file (FILE.npz:NAME for one of "
        "several arrays)."
    ),
]
