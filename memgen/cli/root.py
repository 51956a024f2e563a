"""The applications to which commands are added."""

import os
from typing import Annotated

import typer

import memgen
from memgen.base import files

_EXIT_CODES = (
    "Exit codes: 0 success; 1 any other error; 2 wrong usage or settings; 3 unusable data; 4 a run that is missing, "
    "locked or incomplete; 5 disk full or not writable; 6 an audit with --fail-on found copies; 130 interrupted."
)
app = typer.Typer(
    help="Does an image denoiser or diffusion model memorize its training set, or generalize?\n\n"
    "Every command works on a run, which is a directory under outputs/: the newest run, or the one named with --run. "
    "Start with `memgen demo`, or bring your own images in with `memgen data import FOLDER`. If a command is "
    "interrupted, give it again: it continues where it stopped.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which lets paragraphs flow
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Import, inspect and split the images of a run.", no_args_is_help=True)
runs_app = typer.Typer(help="List, show and remove runs.", no_args_is_help=True)
canaries_app = typer.Typer(help="Plant images that make a later audit exact.", no_args_is_help=True)
app.add_typer(canaries_app, name="canaries", rich_help_panel="Audit")
app.add_typer(data_app, name="data", rich_help_panel="Images and runs")
app.add_typer(runs_app, name="runs", rich_help_panel="Images and runs")


def _version(value: bool) -> None:
    if value:
        print(f"memgen {memgen.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    memory: Annotated[
        float,
        typer.Option(
            envvar=files.MEMORY,
            metavar="GB",
            help="Memory that images and what is made of them may take, in gigabytes. Larger arrays lie in temporary "
            "files (TMPDIR). The results are the same.",
        ),
    ] = files.DEFAULT_MEMORY,
) -> None:
    """See the help given to Typer above."""
    os.environ[files.MEMORY] = str(memory)  # processes that this one starts read it too
    files.in_memory()
