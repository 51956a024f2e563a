"""What a Vega-Lite specification shows, read back from it: layers with their data and encodings."""

from typing import Any


def layers(panel: dict[str, Any], data: list | None = None) -> list[dict[str, Any]]:
    """The layers of a panel that have marks, each with the rows that it inherits, before its filters."""
    rows = panel["data"]["values"] if "data" in panel else data
    if "layer" in panel:
        return [found for layer in panel["layer"] for found in layers(layer, rows)]
    return [panel | {"rows": rows}]


def of_mark(panel: dict[str, Any], mark: str) -> list[dict[str, Any]]:
    """The layers of a panel that have a mark of a type."""
    return [layer for layer in layers(panel) if layer["mark"]["type"] == mark]


def curves(panel: dict[str, Any], x: str = "input", y: str = "estimate") -> dict[Any, list[tuple[float, float]]]:
    """The points of each curve of the lines of a panel."""
    (line,) = of_mark(panel, "line")
    assert (line["encoding"]["x"]["field"], line["encoding"]["y"]["field"]) == (x, y)
    found: dict[Any, list[tuple[float, float]]] = {}
    for row in line["rows"]:
        found.setdefault(row.get("curve", row.get("kind")), []).append((row[x], row[y]))
    return found


def ranges(layer: dict[str, Any], channel: str = "color") -> dict[str, Any]:
    """The color, or the dashes, of each curve."""
    scale = layer["encoding"][channel]["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


def levels(panel: dict[str, Any]) -> list[float]:
    """The heights of the horizontal lines."""
    rules = [layer for layer in of_mark(panel, "rule") if layer["encoding"].get("y", {}).get("field") == "level"]
    return [row["level"] for rule in rules for row in rule["rows"]]


def texts(panel: dict[str, Any]) -> list[str]:
    """What is written in a panel."""
    return [row.get("text", layer["mark"].get("text")) for layer in of_mark(panel, "text") for row in layer["rows"]]
