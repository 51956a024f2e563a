"""The documentation site: what is made from the program, its links, and its pages in a browser."""

import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import threading

import pages
import pyarrow as pa
import pytest

import memgen
from memgen.base import schemas, tables
from memgen.experiment.settings import RunSettings

CHROMIUM = os.environ.get("MEMGEN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def build_site():
    """The program that builds the site, as a module."""
    spec = importlib.util.spec_from_file_location("build_site", pages.ROOT / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_leaves_nothing_out(build_site):
    """Every command with its options, every setting, public name, table and column is on its page, with its meaning."""
    made = build_site.references()
    for words, command in build_site.every_command(build_site.typer.main.get_command(build_site.app)):
        section = made["commands.md"].split(f"## {' '.join(words)}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            assert parameter.help, (words, parameter.name)
            assert parameter.help.splitlines()[0].replace("|", "\\|") in section, (words, parameter.name)
            if parameter.param_type_name == "option":
                assert all(f"`{name}`" in section for name in parameter.opts), (words, parameter.name)
    assert "| `audit` | " not in made["commands.md"]
    assert "| `--count` `<int>` | " in made["commands.md"]
    for name in RunSettings.model_fields:
        assert f"| `{name}" in made["settings.md"], name
    assert "| `sweep.n_train` | `[1, 4, 16, 64, 256, 1024, 4096]` | training-set sizes |" in made["settings.md"]
    assert "`model.layers` (architecture = bf_cnn)" in made["settings.md"]
    for name, home in memgen._HOMES.items():
        assert f"::: memgen.{home}.{name}\n" in made["python.md"]
    found = [value for value in vars(schemas).values() if isinstance(value, pa.Schema)]
    assert len(found) > 15
    for schema in found:
        section = made["tables.md"].split(f"\n## {tables.name(schema)}\n")[1].split("\n## ")[0]
        assert [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")] == schema.names
    for name in ("`answer`", "`gaps[].tpr_low`", "[pair](#pair)"):
        assert name in made["audit_json.md"]


def test_broken_links_are_found(build_site, tmp_path):
    """A missing file, a missing anchor and anything that is loaded from elsewhere are named; what is right is not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text(
        "<h1 id='x'>X</h1><a href='../b.html#y'>y</a><a href='https://e.org'>e</a>"
    )
    (tmp_path / "b.html").write_text(
        "<p id='y'></p><a href='a/#x'></a><a href='a#z'></a><img src='no.png'><script src='https://e.org/s.js'></script>"
    )
    assert build_site.broken_links(tmp_path) == [
        "b.html: a#z has no such anchor",
        "b.html: no.png does not exist",
        "b.html: script loads https://e.org/s.js from elsewhere",
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, built anew, with every warning an error."""
    pytest.importorskip("zensical", reason="needs the extra docs")
    out = tmp_path_factory.mktemp("build")
    command = [sys.executable, pages.ROOT / "docs" / "build_site.py", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(pages.ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(_Quiet, directory=out / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = sorted(path.relative_to(out / "site").as_posix() for path in (out / "site").rglob("*.html"))
        yield f"http://127.0.0.1:{server.server_address[1]}/", [name for name in names if name != "404.html"]
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_in_a_browser(site, width):
    """No page has an accessibility error, asks anything of another host, logs an error, or is wider than the window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra docs")
    checker = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra docs")
    if CHROMIUM is None:
        pytest.skip("no Chromium: neither MEMGEN_CHROMIUM nor a chromium on the path")
    address, names = site
    assert len(names) > 25
    wrong = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else wrong.append(asked.url),
        )
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        for name in names:
            page.goto(address + name)
            page.wait_for_load_state("networkidle")
            found = checker.Axe().run(page).response["violations"]
            wrong.extend((name, each["id"], each["nodes"][0]["html"][:200], len(each["nodes"])) for each in found)
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wrong.append((name, "is wider than the window"))
    assert wrong == []
