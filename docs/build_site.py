"""Write the sources of the documentation site, build it, and check every link.

    python docs/build_site.py [--out build]

The sources are the repository's own pages, copied to OUT/docs with the folders they have here, so that their links hold
on the site as in the repository. Beside them, under docs/reference/, lie the pages that are made from the program: its
commands, its settings, its public names, its tables and the schema of audit.json. The site is built into OUT/site.
Every warning of the generator is an error, and so is a link to a page, an anchor or a picture that does not exist.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import memgen
from memgen.base import schemas, tables
from memgen.cli import app
from memgen.experiment.audit_settings import AuditSettings
from memgen.experiment.settings import RunSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md")
FILES = ("docs/**/*.png", "docs/*.css", "docs/*.js", "docs/*.json", "CITATION.cff", "LICENSE", "examples/*")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of the sources and of the site")
    out = parser.parse_args().out.resolve()
    sources, site = out / "docs", out / "site"
    for folder in (sources, site):
        shutil.rmtree(folder, ignore_errors=True)
    write_sources(sources)
    configuration = (ROOT / "zensical.toml").read_text()
    (out / "zensical.toml").write_text(configuration.replace('"build/', '"'))
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", out / "zensical.toml"], check=False
    )
    wrong = broken_links(site)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if built.returncode or wrong:
        sys.exit(f"the site has errors: zensical ended with {built.returncode}, and {len(wrong)} links are broken")
    print(site / "index.html")


def write_sources(folder: Path) -> None:
    """Copy the pages of the repository into a folder, and write the pages of reference beside them."""
    for pattern in (*PAGES, *FILES):
        for path in sorted(ROOT.glob(pattern)):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    reference = folder / "docs" / "reference"
    reference.mkdir(parents=True)
    for name, text in references().items():
        (reference / name).write_text(text)


def references() -> dict[str, str]:
    """The pages that are made from the program, by their names."""
    return {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "python.md": python_page(),
        "tables.md": tables_page(),
        "audit_json.md": audit_page(),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; bars in cells are escaped."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], ["---"] * len(head), *cells[1:]]) + "\n"


# Commands


def commands_page() -> str:
    """Every command with its arguments, options, defaults and help, from the program's own declarations."""
    root = typer.main.get_command(app)
    parts = [
        "# Commands",
        f"This page is made from the program itself. `memgen COMMAND --help` prints the same.\n\n{root.help}",
        f"{root.epilog}",
    ]
    return "\n\n".join([*parts, *(one_command(words, command) for words, command in every_command(root))]) + "\n"


def every_command(command: Any, words: tuple[str, ...] = ("memgen",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below one, with the words that call them."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from every_command(child, (*words, name))
        else:
            yield (*words, name), child


def one_command(words: tuple[str, ...], command: Any) -> str:
    """Usage, help and options of one command."""
    context = command.make_context(" ".join(words), [], resilient_parsing=True)
    usage = " ".join([*words, *command.collect_usage_pieces(context)])
    rows: list[list[str]] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            rows.append([code(parameter.display_name_raw.upper()), parameter.help or "", ""])
            continue
        names = ", ".join(code(name) for name in (*parameter.opts, *parameter.secondary_opts))
        kind = "" if parameter.is_flag else f" {code(kind_of(parameter, context))}"
        rows.append([names + kind, parameter.help or "", default_of(parameter, context)])
    return "\n\n".join(
        [
            f"## {' '.join(words)}",
            f"```text\n{usage}\n```",
            command.help or "",
            table(["option", "meaning", "default"], rows),
        ]
    )


def kind_of(parameter: Any, context: Any) -> str:
    """What an option takes, such as <int>; for one that may be given several times, what each takes."""
    shown = str(parameter.display_type_rich(context))
    return shown.replace(" range>", ">").replace("<list[str]>", "<str>").replace("|", " or ")


def default_of(parameter: Any, context: Any) -> str:
    """The default of an option as people write it; nothing for flags and for options without one."""
    value = parameter.get_default(context)
    return "" if value in (None, False, ()) or parameter.is_flag else code(value)


def code(value: Any) -> str:
    """Text in code font."""
    return f"`{value}`" if str(value) else ""


# Settings


def settings_page() -> str:
    """Every setting of a run and of an audit with its default and meaning, from the classes that are filled."""
    intro = (
        "# Settings\n\nThis page is made from the program itself. A TOML file (`--config FILE`) sets these keys, and "
        "`--set KEY=VALUE` sets one of them."
    )
    parts = [
        intro,
        "## Of a run",
        "`memgen sweep` and the other commands that work on a run.",
        table(["key", "default", "meaning"], list(setting_rows(RunSettings))),
        "## Of an audit",
        "`memgen audit`. The arguments and options of the command set some of these keys.",
        table(["key", "default", "meaning"], list(setting_rows(AuditSettings))),
    ]
    return "\n\n".join(parts) + "\n"


def setting_rows(kind: type[BaseModel], prefix: str = "", of: str = "") -> Iterator[list[str]]:
    """Key, default and meaning of every setting of a class and of the classes in it.

    Where one of several classes is filled, such as that of an architecture, `of` says which one has the key.
    """
    for name, field in kind.model_fields.items():
        members = models_in(field.annotation)
        if not members:
            meaning = field.description or "chooses among these settings"
            yield [f"`{prefix}{name}`{of}", shown_default(field), meaning]
        for member in members:
            among = f" ({choice(member)})" if len(members) > 1 else of
            yield from setting_rows(member, f"{prefix}{name}.", among)


def choice(member: type[BaseModel]) -> str:
    """What chooses a class among several: its key of one possible value."""
    (chosen,) = [
        f"{name} = {field.default}"
        for name, field in member.model_fields.items()
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    ]
    return chosen


def shown_default(field: FieldInfo) -> str:
    """The default of a setting in TOML, or that it must be given."""
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else code(json.dumps(value, default=str, ensure_ascii=False))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in an annotation, also inside unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


# Python


def python_page() -> str:
    """The public names of the package, whose docstrings mkdocstrings puts in the places that this page names."""
    parts = [
        "# Python",
        "The public names of the package, as their docstrings explain them. Everything else may change between "
        "releases.",
    ]
    for name, home in memgen._HOMES.items():
        shown = {"heading": f"memgen.{name}", "toc_label": f"memgen.{name}"}
        options = "".join(f"\n      {key}: {value}" for key, value in shown.items())
        parts.append(f"::: memgen.{home}.{name}\n    options:{options}")
    return "\n\n".join(parts) + "\n"


# Tables


def tables_page() -> str:
    """Every table that memgen writes, with type, unit and meaning of each column, from the schemas in the files."""
    parts = [
        "# Tables",
        "The Parquet files under `outputs/RUN/tables/`. This page is made from the same schemas as the files, which "
        "hold the meaning and the unit of each column in their metadata. `null` says whether a value may be missing. "
        "The number after the name is the version of the schema, in the metadata `memgen.schema` of the file.",
    ]
    found = {tables.name(value): value for value in vars(schemas).values() if isinstance(value, pa.Schema)}
    for name, schema in sorted(found.items()):
        rows = [
            [
                code(field.name),
                str(field.type),
                field.metadata[b"unit"].decode(),
                "null" if field.nullable else "",
                field.metadata[b"doc"].decode(),
            ]
            for field in schema
        ]
        version = schema.metadata[b"memgen.schema"].decode().partition("/")[2]
        parts += [f"## {name}", f"Version {version}.", table(["column", "type", "unit", "null", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


# audit.json


def audit_page() -> str:
    """The fields of audit.json, from its JSON schema."""
    schema = json.loads((ROOT / "docs" / "audit.schema.json").read_text())
    parts = [
        "# audit.json",
        f"{schema['description']} This page is made from the schema itself, [audit.schema.json](../audit.schema.json). "
        "[Audits](../audit.md) says what the numbers mean, and [Tables](tables.md) what the columns of the tables are.",
        "## The document",
        table(["field", "type", "meaning"], list(json_rows(schema, schema))),
    ]
    for name, definition in schema.get("$defs", {}).items():
        parts += [
            f"## {name}",
            definition.get("description", ""),
            table(["field", "type", "meaning"], list(json_rows(definition, schema))),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def json_rows(node: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """Name, type and meaning of the fields of an object and of the objects in it."""
    for name, field in node.get("properties", {}).items():
        yield [code(prefix + name), json_type(field), field.get("description", "")]
        inner = field.get("items", field) if field.get("type") == "array" else field
        if isinstance(inner, dict):
            yield from json_rows(inner, schema, f"{prefix}{name}{'[]' if inner is not field else ''}.")


def json_type(field: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "const" in field:
        return code(json.dumps(field["const"]))
    if "enum" in field:
        return " or ".join(code(json.dumps(each)) for each in field["enum"])
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name})"
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(json_type(each) for each in field[key])
    kind = field.get("type", "any")
    if kind == "array":
        return f"array of {json_type(field['items'])}" if field.get("items") else "array"
    return kind if isinstance(kind, str) else " or ".join(kind)


# Links


class _Links(HTMLParser):
    """The anchors of a page, and all that it points to."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        for key in ("href", "src"):
            if value := given.get(key):
                self.links.append((tag, value))


def broken_links(site: Path) -> list[str]:
    """What is wrong with the links of a site: targets that do not exist, and what is loaded from elsewhere."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Links()
        pages[path].feed(path.read_text())
    wrong = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for tag, link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if tag not in ("a",) and address.scheme != "data":
                    wrong.append(f"{path.relative_to(site)}: {tag} loads {link} from elsewhere")
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{path.relative_to(site)}: {link} does not exist")
            elif address.fragment and target in pages and unquote(address.fragment) not in pages[target].anchors:
                wrong.append(f"{path.relative_to(site)}: {link} has no such anchor")
    return wrong


if __name__ == "__main__":
    main()
