"""The applications to which commands are added."""

from typing import Annotated

import typer

import memgen

_EXIT_CODES = (
    "Exit codes: 0 done, 1 other error, 2 wrong usage or settings, 3 unusable data, 4 run missing, locked or "
    "incomplete, 5 disk full or not writable, 130 interrupted."
)
app = typer.Typer(
    help="Does an image denoiser or diffusion model memorize its training set, or generalize?\n\n"
    "Commands work on a run, a directory under outputs/: the newest one, or the one named by --run. "
    "Start with `memgen demo`, or with `memgen data import FOLDER`. A command that was interrupted goes on where it "
    "was when it is given again.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which lets paragraphs flow
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Import, inspect and split the images of a run.", no_args_is_help=True)
runs_app = typer.Typer(help="List, show and remove runs.", no_args_is_help=True)


def _version(value: bool) -> None:
    if value:
        print(f"memgen {memgen.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See the help given to Typer above."""
