"""The console in a real browser, against the real service: what a first visitor does, and what goes wrong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

import vecmeta as vm
from tests.browser import AXE, Visit, launched, needs_chromium, visit
from tests.service_kit import SMALL, Running, free_port, png, started, until

pytestmark = needs_chromium

EVIL = "<script>window.ran=1</script><img src=x onerror='window.ran=1'>"
VIEWS = ("search", "changes", "map", "versions", "items")
OPERATE = ("collections", "jobs", "keys", "health")
FIRST_VIEW = 200_000  # bytes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a worker and a small limit on bodies; its collections are made by the tests."""
    folder = tmp_path_factory.mktemp("browser") / "db"
    with vm.open(folder, device="cpu") as db:
        taught = db.create("taught", encoder="vectors", dim=SMALL.dim)
        taught.add_vectors(SMALL.ids, SMALL.x, [{"label": f"label {label}", EVIL: EVIL} for label in SMALL.label])
        taught.feedback([*SMALL.judgements(range(4), 4), vm.Judgement(SMALL.ids[0], concept=EVIL)])
        evil = db.create("evil", encoder="vectors", dim=2)
        evil.add_vectors([EVIL, f"{EVIL}2"], np.eye(2), [{"name": EVIL}, {EVIL: "x"}])
        evil.feedback([vm.Judgement(EVIL, concept=EVIL), vm.Judgement(f"{EVIL}2", concept=EVIL, score=-1.0)])
    with started(folder, workers=1, max_body=200_000, encoders=["text", "vectors", "image"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def ranks(page: Page, module: str, marked: set[str]) -> list[int]:
    """The ranks of a module's items that nobody marked, best first."""
    return [
        place
        for place, card in enumerate(page.locator(".card").all(), 1)
        if card.get_attribute("data-id") not in marked and module in (card.locator(".metadata").text_content() or "")
    ]


def test_a_first_visit_from_sample_data_to_better_ranks_and_back(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        page = one.page
        running.ask("DELETE", "/v1/collections/python-docs")
        one.go("#/-/operate/collections")
        page.get_by_role("button", name="Sample data").click()
        page.locator("#sample-size").select_option("200")
        page.locator("[data-sample=python-docs]").click()
        expect(page.locator("#query")).to_be_visible(timeout=120_000)
        page.get_by_label("How many hits").select_option("50")
        page.locator("#query").fill("set the current line")
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator(".card")).to_have_count(50)
        mine = page.locator(".card", has_text="bdb.")
        marked = set()
        page.get_by_label("A new concept's name").fill("debugger")
        page.get_by_role("button", name="New", exact=True).click()
        expect(page.locator("#target")).to_have_value("=debugger")
        for number in range(5):
            card = mine.nth(number)
            marked.add(str(card.get_attribute("data-id")))
            card.get_by_role("button", name=re.compile("^Fits")).click()
            expect(page.locator(".thumb.up.on")).to_have_count(number + 1)
        before = ranks(page, "bdb", marked)
        expect(page.locator("#understood")).to_contain_text("5 items that fit")
        page.locator("#adapt").click()
        expect(page.locator(".report .decision")).to_be_visible(timeout=120_000)
        if page.get_by_role("button", name="Make it live all the same").is_visible():
            page.get_by_role("button", name="Make it live all the same").click()
        expect(page.locator("#live")).to_have_text("version 1 is live")
        expect(page.locator("#status")).to_contain_text("version 1")
        after = ranks(page, "bdb", marked)
        assert len(after) > len(before) >= 8, (before, after)  # more of them among the fifty
        assert np.mean(after[: len(before)]) < np.mean(before), (before, after)  # and nearer to the top
        assert page.locator(".arrow.up").count() > 0
        running.ask("POST", "/v1/collections/python-docs/versions/1/activate")
        page.get_by_role("link", name="See what changed").click()
        expect(page.locator("#moved")).to_contain_text(re.compile(r"\d+ new, \d+ moved"))
        page.get_by_role("link", name="Versions").click()
        page.get_by_role("button", name="Roll back").click()
        expect(page.locator("#live")).to_have_text("untouched encoder")
        page.get_by_role("button", name="Activate version 1").click()
        if page.get_by_role("button", name="Make it live").is_visible():
            page.get_by_role("button", name="Make it live").click()
        expect(page.locator("#live")).to_have_text("version 1 is live")
        assert one.problems == []


def test_progress_is_told_and_a_preview_costs_nothing(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        one.go("#/taught/search")
        one.page.locator("#preview").click()
        expect(one.page.locator(".report")).to_contain_text("Preview", timeout=60_000)
        expect(one.page.locator(".report .facts").first).to_contain_text("Re-embed")
        expect(one.page.locator("#live")).to_have_text("untouched encoder")
        assert any("/events" in answer.url and "event-stream" in answer.headers["content-type"] for answer in one.seen)


def test_what_is_stored_never_runs(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        for view in VIEWS:
            one.go(f"#/evil/{view}")
            one.arrived()
        for page in OPERATE:
            one.go(f"#/-/operate/{page}")
            one.arrived()
        one.go("#/evil/search")
        expect(one.page.locator(".card").first).to_contain_text(EVIL)
        expect(one.page.locator(".concept-name").first).to_have_text(EVIL)
        one.page.get_by_role("button", name="More like this").first.click()
        expect(one.page.locator("#status")).to_contain_text(EVIL)
        one.page.get_by_role("button", name="What should I label next?").click()
        one.page.get_by_role("button", name="Filter", exact=True).click()
        one.page.locator(".card").first.press("Enter")
        expect(one.page.locator("dialog")).to_contain_text(EVIL)
        assert one.page.evaluate("window.ran") is None
        assert one.problems == []


def test_script_in_a_page_is_refused_by_the_policy(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        one.go()
        one.arrived()
        markup = "<img src=x onerror='window.ran=1'>"
        write = "markup => { try { document.body.innerHTML = markup; return 'written' } catch (error) { return error.name } }"
        assert one.page.evaluate(write, markup) == "TypeError"
        away = """() => new Promise((told) => {
          document.addEventListener('securitypolicyviolation', (event) => told(event.effectiveDirective));
          fetch('http://127.0.0.1:8001/').then(() => told('sent'), () => {});
        })"""
        assert one.page.evaluate(away) == "connect-src"
        assert one.page.evaluate("window.ran") is None


def test_a_key_is_asked_for_and_a_wrong_one_is_told(browser: Browser, running: Running) -> None:
    with visit(browser, running, key=None) as one:
        one.go()
        page = one.page
        expect(page.locator("dialog")).to_be_visible()
        page.locator("#key").fill("vm_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator(".toast")).to_contain_text("unknown, expired or revoked")
        expect(page.locator("dialog")).to_be_visible()
        page.locator("#key").fill(running.secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#collection")).to_be_visible()
        assert page.evaluate("localStorage.getItem('vecmeta-key')") is None


def test_the_first_view_is_small_and_soon_there(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        one.go("#/evil/search")
        one.arrived()
        sizes = {answer.url: len(answer.body()) for answer in one.seen}
        assert all(url.startswith(one.url) for url in sizes)
        assert sum(sizes.values()) < FIRST_VIEW, sizes


def test_too_much_is_told_and_a_file_is_imported_with_its_refusals(browser: Browser, running: Running, tmp_path: Path) -> None:
    with visit(browser, running) as one:
        page = one.page
        running.ask("POST", "/v1/collections", {"name": "imports", "encoder": "vectors", "dim": 2})
        lines = [{"id": f"row {n}", "vector": [1.0, n], "year": 2000 + n} for n in range(130)] + [{"id": "bad", "vector": [1.0]}]
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        one.go("#/imports/items")
        page.get_by_label("Files of items").set_input_files(file)
        expect(page.locator(".drop")).to_contain_text("130 items written")
        expect(page.locator(".drop")).to_contain_text("1 refused")
        expect(page.locator("tbody tr")).to_have_count(50)
        page.get_by_role("button", name="Later").click()
        expect(page.locator(".status").last).to_contain_text("page 2")
        one.go("#/imports/search")
        page.get_by_role("button", name="Filter", exact=True).click()
        page.get_by_label("Comparison").select_option("$gte")
        page.get_by_label("Value of year").fill("2125")
        page.get_by_role("button", name="More like this").first.click()
        expect(page.locator("#status")).to_contain_text("5 hits")
        one.go("#/python-docs/search")
        running.ask("POST", "/v1/collections", {"name": "texts", "encoder": "text"})
        one.go("#/texts/search")
        page.locator("#query").fill("x" * 250_000)
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#status")).to_contain_text("Too large")


def test_a_failed_job_says_why(browser: Browser, running: Running) -> None:
    running.ask("POST", "/v1/collections/evil/finetune", {})
    until(lambda: json.loads(running.ask("GET", "/v1/jobs?collection=evil").content)["jobs"][0]["finished"] is not None, 60)
    with visit(browser, running) as one:
        one.go("#/-/operate/jobs")
        row = one.page.locator("tr", has_text="evil").first
        expect(row).to_contain_text("failed")
        row.locator("summary").click()
        expect(row.locator(".failed")).to_be_visible()


def test_a_service_that_is_gone_is_told_and_found_again(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    with vm.open(tmp_path / "db", device="cpu") as db:
        db.create("c", encoder="vectors", dim=2).add_vectors(["a", "b"], np.eye(2))
    with started(tmp_path / "db", port=port) as first, visit(browser, first) as one:
        one.go("#/c/search")
        expect(one.page.locator(".card")).to_have_count(2)
        first.stop()
        one.page.get_by_role("button", name="More like this").first.click()
        expect(one.page.locator(".banner")).to_contain_text("does not answer")
        with started(tmp_path / "db", port=port):
            expect(one.page.locator(".banner p")).to_have_count(0, timeout=60_000)
            one.page.get_by_role("button", name="More like this").first.click()
            expect(one.page.locator("#status")).to_contain_text("1 hit")


def test_everything_can_be_done_from_the_keyboard(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        one.go("#/imports/search" if "imports" in running.ask("GET", "/v1/collections").text else "#/taught/search")
        page = one.page
        expect(page.locator(".card").first).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.locator(".card").first.focus()
        page.keyboard.press("ArrowDown")
        expect(page.locator(".card").nth(1)).to_be_focused()
        page.keyboard.press("m")
        expect(page.locator("#status")).to_contain_text("like")
        page.locator(".card").nth(2).focus()
        page.keyboard.press("+")
        expect(page.locator(".card").nth(2)).to_have_class(re.compile("liked"))
        page.keyboard.press("0")
        expect(page.locator(".card").nth(2)).not_to_have_class(re.compile("liked"))


def serious(one: Visit) -> list[str]:
    """What axe-core finds serious or critical."""
    if not one.page.evaluate("typeof axe === 'object'"):
        one.page.evaluate(AXE.read_text("utf-8"))
    found = one.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {[node['html'][:160] for node in violation['nodes']]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here: `make test` fetches it with npm where that is installed")
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.quality)])
def test_nothing_seriously_bars_anybody(browser: Browser, running: Running, scheme: str) -> None:
    with visit(browser, running, color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900}) as one:
        found = []
        for where in (*(f"#/taught/{view}" for view in VIEWS), *(f"#/-/operate/{page}" for page in OPERATE)):
            one.go(where)
            one.arrived()
            found += [f"{where} {violation}" for violation in serious(one)]
        assert not found, "\n".join(found)


@pytest.mark.quality
def test_a_map_of_twenty_thousand_points_is_smooth(
    browser: Browser, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    running.ask("POST", "/v1/collections", {"name": "many", "encoder": "vectors", "dim": 16})
    x = rng.normal(size=(20_000, 16)) + 3 * rng.normal(size=(12, 16))[rng.integers(12, size=20_000)]
    for start in range(0, len(x), 500):
        items = [
            {"id": f"m{n:05d}", "vector": x[n].tolist(), "metadata": {"kind": f"k{n % 7}"}} for n in range(start, start + 500)
        ]
        assert running.ask("PUT", "/v1/collections/many/items", {"items": items}).status_code == 200
    with visit(browser, running, viewport={"width": 1280, "height": 900}) as one:
        begin = time.perf_counter()
        one.go("#/many/map")
        expect(one.page.locator(".status")).to_contain_text("20,000 items", timeout=60_000)
        loaded = time.perf_counter() - begin
        times = one.page.evaluate(
            """async () => {
              const canvas = document.querySelector('canvas.map'), ends = [];
              for (let n = 0; n < 90; n += 1) {
                canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: n % 2 ? 1 : -1, bubbles: true, cancelable: true }));
                ends.push(await new Promise(requestAnimationFrame));
              }
              return ends.slice(1).map((end, n) => end - ends[n]);
            }"""
        )
        with capsys.disabled():
            print(
                f"\nmap of 20,000: there after {loaded:.1f} s, frames {np.median(times):.1f} ms (p95 {np.percentile(times, 95):.1f})"
            )
        assert np.median(times) < 50


def picture(name: str, colour: tuple[int, int, int]) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": png(colour)}


def test_a_picture_is_searched_by_upload(browser: Browser, running: Running) -> None:
    with visit(browser, running) as one:
        running.ask("POST", "/v1/collections", {"name": "pictures", "encoder": "image"})
        one.go("#/pictures/items")
        one.page.get_by_label("Files of items").set_input_files(
            [picture("red.png", (200, 0, 0)), picture("blue.png", (0, 0, 200))]
        )
        expect(one.page.locator(".drop")).to_contain_text("2 items written", timeout=60_000)
        one.go("#/pictures/search")
        one.page.get_by_label("A picture to search by").set_input_files(picture("q.png", (180, 10, 10)))
        expect(one.page.locator("#status")).to_contain_text("2 hits · a picture")
        expect(one.page.locator(".card").first).to_have_attribute("data-id", "red.png")
