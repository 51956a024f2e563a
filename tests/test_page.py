"""The pages in a real browser: every control works, nothing is requested, and everyone can use them."""

import csv
import io
import json
import re
import time
from itertools import pairwise

import browsing
import numpy as np
import pytest
from browsing import HOSTILE, opened

from memgen.base import wording
from memgen.report import audit_page
from memgen.report import page as pages


@pytest.fixture(scope="module")
def browser():
    driver, browser = browsing.launch()
    yield browser
    browser.close()
    driver.stop()


@pytest.fixture(scope="module")
def given():
    return browsing.sweep()


@pytest.fixture(scope="module")
def sweep_page(given, tmp_path_factory):
    """The page of a sweep with two N."""
    path = tmp_path_factory.mktemp("sweep") / "report.html"
    path.write_text(pages.render(given[0]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def audit_page_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "report.html"
    path.write_text(audit_page.render(browsing.audit()), encoding="utf-8")
    return path


@pytest.fixture
def seen(browser, sweep_page):
    with opened(browser, sweep_page) as found:
        yield found


@pytest.fixture(scope="module")
def kept_open(browser, sweep_page):
    with opened(browser, sweep_page) as found:
        yield found


@pytest.fixture
def shared(kept_open):
    """The page at the first N, opened once for all tests that leave it as they found it but for the slider."""
    kept_open.page.locator("#panel").fill("0")
    return kept_open


@pytest.fixture
def audited(browser, audit_page_path):
    with opened(browser, audit_page_path) as found:
        yield found


def names(found) -> list[str]:
    return found.page.locator("#cards .name").all_inner_texts()


def shown(found, title: str) -> list[float]:
    """The values of a measure on the cards, in order; missing ones are NaN."""
    texts = found.page.locator("#cards dl").evaluate_all(
        "(lists, title) => lists.map(l => [...l.querySelectorAll('dt')].find(d => d.textContent === title)"
        ".nextSibling.textContent)",
        title,
    )
    return [float(text.replace(wording.MINUS, "-").replace("\N{EN DASH}", "nan")) for text in texts]


# ------------------------------------------------------------------------------------------------- quiet and safe


@pytest.mark.parametrize("which", ["sweep_page", "audit_page_path"])
def test_the_page_is_quiet(which, browser, request):
    """With every chart drawn and every picture shown there is no message, no error and no request."""
    path = request.getfixturevalue(which)
    with opened(browser, path) as found:
        for host in found.page.locator("[data-chart]").all():
            found.chart(host.get_attribute("data-chart"))
        found.drawn()
        assert found.messages == []
        assert found.requests == []


@pytest.mark.parametrize("which", ["sweep_page", "audit_page_path"])
def test_texts_from_files_run_nothing(which, browser, request):
    """Titles, file names, notes and settings that look like scripts are shown as they are."""
    with opened(browser, request.getfixturevalue(which)) as found:
        if found.page.locator("#panel").count():
            found.page.locator("#panel").fill("0")
        found.drawn()
        assert found.page.evaluate("window.hacked") is None
        assert found.page.locator("img[src=x]").count() == 0
        assert found.look("h1").startswith("</script><script>window.hacked=1</script>")
        assert any("</script><script>" in name for name in names(found))


def test_the_policy_forbids_requests_and_other_scripts(seen):
    """A request and a script that were not part of the page are refused by the browser."""
    refused = seen.page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener('securitypolicyviolation', e => found.push(e.effectiveDirective));
            await fetch('http://127.0.0.1:9/').catch(() => {});
            const script = document.createElement('script');
            script.textContent = 'window.hacked = 1';
            document.body.append(script);
            const image = new Image();
            image.src = 'http://127.0.0.1:9/x.png';
            await new Promise(done => setTimeout(done, 100));
            return found;
        }"""
    )
    assert sorted(refused) == ["connect-src", "img-src", "script-src-elem"]
    assert seen.page.evaluate("window.hacked") is None


# ------------------------------------------------------------------------------------------------- the slider


def test_the_slider_drives_everything(seen, given):
    """Another N changes its name, its numbers, the gallery, the histograms, the film and the eigenvectors."""
    histogram = seen.chart("histograms")
    seen.chart("transition")

    def state():
        seen.page.wait_for_timeout(150)
        transition = seen.page.locator("[data-chart=transition] svg").inner_html()
        return (
            seen.look("#panel-name"),
            seen.look("#numbers"),
            seen.look("#gallery-count"),
            histogram.locator("svg").inner_html(),
            transition,
            seen.page.locator("#frames h3").all_inner_texts(),
            seen.page.locator("#cards .soft").first.inner_text(),
        )

    seen.page.locator("#panel").fill("0")
    before = state()
    assert before[0].startswith("N = 4: ")
    assert "Verdict at N = 4" in before[1]
    assert before[2] == "192 of 192 samples at N = 4"
    assert before[5] == ["N = 4, model A", "N = 4, model B"]
    seen.page.locator("#panel").fill("1")
    after = state()
    assert after[0].startswith("N = 64: ")
    assert after[2] == "192 of 192 samples at N = 64"
    assert after[5] == ["N = 64, model A", "N = 64, model B"]
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert seen.page.locator("#panel").get_attribute("aria-valuetext") == "N = 64"
    assert seen.messages == []


def test_the_numbers_are_those_of_the_table(shared, given):
    """The value of the memorized fraction at the selected N stands among the numbers."""
    rows = given[0].tables["transition"].to_pylist()
    for place, n in enumerate((4, 64)):
        (value,) = [row["estimate"] for row in rows if (row["n_train"], row["quantity"]) == (n, "memorized_fraction")]
        shared.page.locator("#panel").fill(str(place))
        text = shared.page.locator("#numbers div", has_text="memorized fraction").locator("dd").inner_text()
        assert float(text.split()[0].replace(wording.MINUS, "-")) == pytest.approx(value, abs=6e-4)


def test_the_page_begins_at_the_transition(seen, given):
    """The first N shown is the one nearest to where the memorized fraction falls through 1/2, or the middle one."""
    panels = json.loads(seen.page.locator("#page-data").inner_text())["panels"]
    assert [panel["name"] for panel in panels if panel["start"]] == ["N = 64"]
    assert seen.page.locator("#panel").input_value() == "1"


def test_the_slider_takes_keys(shared):
    """Arrow keys move the slider, and a visible outline marks what has the focus."""
    shared.page.locator("#panel").fill("1")
    shared.page.locator("#panel").focus()
    shared.page.keyboard.press("ArrowLeft")
    assert shared.look("#panel-name").startswith("N = 4: ")
    shared.page.keyboard.press("ArrowRight")
    assert shared.look("#panel-name").startswith("N = 64: ")
    outline = shared.page.locator("#panel").evaluate("e => getComputedStyle(e).outlineWidth")
    assert outline == "3px"


def test_a_click_on_a_point_selects_its_size(shared):
    """A click on a point of the transition is a move of the slider."""
    host = shared.chart("transition")
    points = host.locator("g.mark-symbol[class*=layer] path")
    shared.page.locator("#panel").fill("1")
    left = min((box["x"], box["y"], i) for i in range(points.count()) if (box := points.nth(i).bounding_box()))
    points.nth(left[2]).click(force=True)
    assert shared.look("#panel-name").startswith("N = 4: ")


# ------------------------------------------------------------------------------------------------- the gallery


def test_cards_show_the_samples_and_their_neighbors(shared, given):
    """The three pictures of the first card are the images of the sample, of its neighbor, and of the other model."""
    gallery = given[0].gallery
    for picture, places in enumerate(gallery.places):
        expected = np.round(np.clip(gallery.image_of(*places[0]), 0, 1) * 255)[0]
        assert (shared.pixels(f"#cards li:first-child figure:nth-child({picture + 1}) canvas") == expected).all()


def test_differences(shared, given):
    """A difference is the magnitude of the neighbor minus the sample, pixel by pixel; the sample stays."""
    gallery = given[0].gallery
    sample, near = (np.round(np.clip(gallery.image_of(*gallery.places[k][0]), 0, 1) * 255)[0] for k in (0, 1))
    shared.page.locator("#difference").check()
    assert (shared.pixels("#cards li:first-child figure:nth-child(1) canvas") == sample).all()
    assert (shared.pixels("#cards li:first-child figure:nth-child(2) canvas") == abs(near - sample)).all()
    assert "difference from the nearest training image" in shared.look("#cards li:first-child")
    shared.page.locator("#difference").uncheck()
    assert (shared.pixels("#cards li:first-child figure:nth-child(2) canvas") == near).all()


def test_sorting(seen):
    """Samples are sorted by any measure in either order; those without the number come last."""
    seen.page.locator("#panel").fill("0")
    for title, name in (("correlation, training image", "nearest"), ("p-value", "p")):
        seen.page.locator("#sort").select_option(name)
        seen.page.locator("#order").select_option("-1")
        falling = shown(seen, title)
        assert falling == sorted(falling, reverse=True)
        assert not np.isnan(falling).any()
        seen.page.locator("#order").select_option("1")
        rising = shown(seen, title)
        assert rising == sorted(rising)
        assert rising[0] < falling[0]
    while seen.page.locator("#next").is_enabled():
        seen.page.locator("#next").click()
    assert np.isnan(shown(seen, "p-value")[-1])


def test_filters(seen, given):
    """Samples are kept by the range of a measure, by model, by space, and by what a test reports; reset undoes it."""
    gallery = given[0].gallery
    here = np.array([panel == "N = 4" for panel in gallery.panels])
    seen.page.locator("#panel").fill("0")

    def count() -> int:
        return int(seen.look("#gallery-count").split()[0])

    p = gallery.values["p"]
    seen.page.locator("#by-measure").select_option("p")
    seen.page.locator("#low").fill("0.7")
    assert count() == (here & (p >= 0.7)).sum()
    seen.page.locator("#high").fill("0.8")
    assert count() == (here & (p >= 0.7) & (p <= 0.8)).sum() > 0
    seen.page.locator("#gallery-controls button").click()
    seen.page.wait_for_timeout(50)
    assert count() == 192
    seen.page.locator("#by-model").select_option(label="N = 4, model B")
    assert count() == 96
    assert all("model B" in text for text in seen.page.locator("#cards .soft").all_inner_texts())
    seen.page.locator("#by-space").select_option(label="pixels")
    assert count() == 48
    seen.page.locator("#reported").check()
    assert count() == 1
    assert "(reported)" in names(seen)[0]


def test_pages_of_the_gallery(shared):
    """24 cards are shown at a time, and buttons turn the pages."""
    assert len(names(shared)) == 24
    assert shared.look("#page-number") == "Page 1 of 8"
    assert shared.page.locator("#previous").is_disabled()
    first = names(shared)
    shared.page.locator("#next").click()
    assert shared.look("#page-number") == "Page 2 of 8"
    assert not set(first) & set(names(shared))
    shared.page.locator("#previous").press("Enter")
    assert names(shared) == first


def test_the_gallery_of_an_audit(audited):
    """An audit has one gallery, in the order of the report, that can be kept to one space."""
    assert audited.look("#gallery-count") == "40 of 40 samples"
    assert [name.endswith("(reported)") for name in names(audited)] == [True] * 5 + [False] * 19
    audited.page.locator("#by-space").select_option(label="aligned")
    assert audited.look("#gallery-count") == "20 of 40 samples"
    assert audited.page.locator("#slider").count() == 0
    given = browsing.audit()
    first = "#cards li:first-child figure:nth-child(3) canvas"
    assert (audited.pixels(first) == given.image_of("held_out", 0)[0]).all()


# ------------------------------------------------------------------------------------------------- film and bases


def test_the_film(seen, given):
    """Frames follow the updates; the film plays to its end, stops, and can be stepped by hand."""
    run = given[1]
    seen.page.locator("#panel").fill("0")
    assert seen.look("#frame-name") == "after 0 updates, noise level about 1"
    first = "#frames .frames:nth-of-type(1) figure:nth-child(2) canvas"
    expected = [np.round(np.clip(run.samples[4, "a"][1] * share, 0, 1) * 255)[0] for share in (0.25, 0.5, 1)]
    seen.page.wait_for_selector(first)
    assert (seen.pixels(first) == expected[0]).all()
    seen.page.locator("#frame").fill("1")
    assert seen.look("#frame-name") == "after 10 updates"
    seen.page.wait_for_timeout(100)
    assert (seen.pixels(first) == expected[1]).all()
    seen.page.locator("#play").click()
    assert seen.look("#play") == "Pause"
    seen.page.wait_for_timeout(600)
    assert seen.look("#play") == "Play"
    assert seen.look("#frame-name") == "after 20 updates, noise level about 0.100"
    assert (seen.pixels(first) == expected[2]).all()
    assert seen.messages == []


def test_the_film_is_slow_for_who_asks_for_less_motion(browser, sweep_page):
    """With reduced motion a frame stays for a second, and nothing moves without being asked."""
    with opened(browser, sweep_page, reduced_motion="reduce") as found:
        found.page.wait_for_timeout(300)
        assert found.page.locator("#frame").input_value() == "0"
        found.page.locator("#play").click()
        found.page.wait_for_timeout(400)
        assert found.page.locator("#frame").input_value() == "0"
        found.page.wait_for_timeout(900)
        assert found.page.locator("#frame").input_value() == "1"


def test_the_eigenvectors(shared):
    """Each model has its inputs and its eigenvectors with their eigenvalues; the noise level can be chosen."""
    captions = shared.page.locator("#bases figcaption").all_inner_texts()
    assert captions[:5] == ["x", "y", "f(y)", "1: 0.225", "2: 0.175"]
    assert len(captions) == 2 * 8
    shared.page.locator("#level").select_option(label="0.500")
    assert shared.page.locator("#bases figcaption").all_inner_texts()[3] == "1: 0.450"
    shared.page.locator("#level").select_option(label="0.250")


def test_the_film_and_the_eigenvectors_of_an_audit(audited):
    """Without a slider of N both are there at once; the choice names the image and the noise level."""
    given = browsing.audit()
    assert audited.look("#frame-name") == "after 0 updates, noise level about 1"
    audited.page.locator("#frame").fill("1")
    assert audited.look("#frame-name") == "after 5 updates, noise level about 0.100"
    first = "#frames figure:nth-child(1) canvas"
    audited.page.wait_for_timeout(100)
    assert (audited.pixels(first) == given.films[0].frames[1, 0][0]).all()
    choices = audited.page.locator("#level option").all_inner_texts()
    assert choices[:2] == ["near a training image, noise level 0.250", "near a training image, noise level 0.500"]
    assert len(choices) == 4
    audited.page.locator("#level").select_option(index=3)
    assert audited.page.locator("#bases figcaption").all_inner_texts() == ["x", "y", "f(y)", "1: 0.450", "2: 0.200"]
    assert audited.messages == []


# ------------------------------------------------------------------------------------------------- tables


def test_tables_can_be_downloaded(shared, given):
    """The CSV of the page has the rows of the table; all tables are linked beside the page."""
    with shared.page.expect_download() as waiting:
        shared.page.locator("a[download='transition.csv.gz']").click()
    assert waiting.value.suggested_filename == "transition.csv"
    with open(waiting.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    table = given[0].tables["transition"]
    assert [row["quantity"] for row in rows] == table["quantity"].to_pylist()
    assert [float(row["estimate"]) if row["estimate"] else None for row in rows] == table["estimate"].to_pylist()
    links = shared.page.locator("section:has(> #tables) a:not([download])").evaluate_all(
        "all => all.map(a => a.getAttribute('href'))"
    )
    assert links[0] == "../tables/transition/transition.parquet"
    assert links[1:] == ["../tables/psnr/a%20b.parquet", "../tables/psnr/c.parquet"]


# ------------------------------------------------------------------------------------------------- for everyone


@pytest.mark.parametrize("which", ["sweep_page", "audit_page_path"])
def test_without_scripts_the_page_still_says_the_answer(which, browser, request):
    """The headline, still charts, tables and words stand there; controls that would do nothing do not."""
    with opened(browser, request.getfixturevalue(which), java_script_enabled=False) as found:
        assert found.page.locator(".headline").is_visible()
        for host in found.page.locator("[data-chart] img").all():
            assert host.evaluate("i => i.naturalWidth") > 300
        assert found.page.locator(".scripted:visible").count() == 0
        assert found.page.locator("table:visible").count() >= 1


def violations(found) -> list:
    """The rules of axe that a page breaks, with the first elements that break them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    broken = axe.Axe().run(found.page).response["violations"]
    return [(rule["id"], [node["html"][:120] for node in rule["nodes"]][:3]) for rule in broken]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["sweep_page", "audit_page_path"])
def test_no_barriers(which, scheme, browser, request):
    """axe finds no violation on either page, light or dark, with everything unfolded."""
    with opened(browser, request.getfixturevalue(which), color_scheme=scheme) as found:
        for host in found.page.locator("[data-chart]").all():
            found.chart(host.get_attribute("data-chart"))
        found.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(found) == []


def test_headings_are_in_order(shared, audited):
    """One main heading, and no level is left out below it."""
    for found in (shared, audited):
        levels = found.page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize("which", ["sweep_page", "audit_page_path"])
def test_a_phone_needs_no_scrolling_sideways(which, browser, request):
    """At 390 pixels nothing is wider than the screen; wide tables scroll in a box of their own."""
    with opened(browser, request.getfixturevalue(which), width=390) as found:
        found.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for host in found.page.locator("[data-chart]").all():
            drawn = found.chart(host.get_attribute("data-chart")).locator("svg").bounding_box()
            assert drawn["width"] <= 390
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(found) == []


def test_print(seen):
    """On paper there are no controls, charts are still pictures of every N, and folded words are unfolded."""
    host = seen.chart("histograms")
    assert not host.locator("img").is_visible()
    seen.page.emulate_media(media="print", color_scheme="dark")
    assert host.locator("img").is_visible()
    assert not host.locator("svg").is_visible()
    for selector in ("#slider", "#gallery-controls", ".pages", ".skip"):
        assert not seen.page.locator(selector).first.is_visible(), selector
    assert seen.page.locator(".headline").is_visible()
    assert seen.page.locator("#cards li").count() > 0
    assert seen.page.pdf()[:5] == b"%PDF-"


def test_charts_follow_the_color_scheme(seen):
    """Charts are drawn again when the scheme changes, with light words on dark."""
    host = seen.chart("transition")
    before = host.locator("svg").inner_html()
    assert "#222222" in before
    seen.page.emulate_media(color_scheme="dark")
    seen.page.wait_for_timeout(700)
    after = host.locator("svg").inner_html()
    assert "#e6e8eb" in after
    assert "#222222" not in after


def test_charts_follow_the_width(seen):
    """On a narrow screen panels stand below each other."""
    seen.chart("transition")
    wide = seen.page.locator("[data-chart=transition] svg").bounding_box()
    seen.page.set_viewport_size({"width": 390, "height": 900})
    seen.page.wait_for_timeout(1000)
    narrow = seen.page.locator("[data-chart=transition] svg").bounding_box()
    assert narrow["width"] < wide["width"] / 2
    assert narrow["height"] > 1.3 * wide["height"]


def test_the_page_is_ready_soon(browser, sweep_page):
    """The script is ready within seconds, even on a slow machine, and says when."""
    began = time.monotonic()
    with opened(browser, sweep_page) as found:
        ready = float(found.page.locator("html").get_attribute("data-ready"))
    assert 0 < ready < 1000 * (time.monotonic() - began)


def test_charts_of_the_page_are_those_of_the_files(given, sweep_page):
    """The page draws the same specifications that are written as SVG and PDF."""
    text = re.search(r'id="page-data">(.*?)</script>', sweep_page.read_text(encoding="utf-8"), re.DOTALL)[1]
    specs = json.loads(text)["charts"]
    assert list(specs) == ["transition", "histograms", "psnr", "training"]
    for name, spec in pages._charts(given[0]).items():
        assert specs[name] == json.loads(json.dumps(spec))
    assert HOSTILE not in text
