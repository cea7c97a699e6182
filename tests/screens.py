"""Every view of the console as pictures, on a phone, a small and a wide screen, light and dark: to be looked at.

    python -m tests.screens --out screens                     # after `make test`, which brings a browser

The real service answers, with the sample data, taught by mood and by module.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as Late

import vecmeta as vm
from service.insight.lessons import lesson
from service.routes.console import LESSONS
from tests.browser import Visit, launched, relayed, visit
from tests.service_kit import Running, started, until
from vecmeta import openmoji, pydocs

WIDTHS = {390: 844, 1024: 768, 1920: 1080}
ITEMS = 300  # of each sample


def fill(folder: Path) -> dict[str, str]:
    """Both samples, each taught one lesson; what a browser that brought them would have kept."""
    kept: dict[str, str] = {}
    with vm.open(folder, device="cpu") as db:
        for name, encoder, items in (
            ("openmoji", "image", openmoji.gather(ITEMS)),
            ("python-docs", "text", pydocs.gather(ITEMS)),
        ):
            collection = db.create(name, encoder=encoder)
            collection.add(items)
            lessons = [found for field, marks in LESSONS[name].items() if (found := lesson(items, field, marks)) is not None]
            told = [{"name": one.name, "concepts": one.concepts} for one in lessons]
            kept[f"vecmeta-lessons-{name}"] = json.dumps(told)
            first = lessons[0].concepts
            collection.feedback([vm.Judgement(id, concept=concept) for concept, ids in first.items() for id in ids])
            report = collection.adapt()
            if report.decision != "promoted" and report.version is not None:
                collection.activate(report.version)
            concept, ids = next(iter(first.items()))
            other = list(first)[1]
            collection.feedback(
                [vm.Judgement(ids[0], concept=concept, score=-1.0), vm.similar(ids[0], ids[1]), vm.dissimilar(ids[0], ids[1])]
            )
            collection.feedback([vm.Judgement(ids[2], concept=other)])
        kept["vecmeta-examples-python-docs"] = json.dumps(
            ["set the current line", "join two paths", "parse a number", "write to a file"]
        )
        kept["vecmeta-recent-python-docs"] = json.dumps([{"text": "set the current line"}, {"text": "join two or more paths"}])
        kept["vecmeta-recent-openmoji"] = json.dumps([{"id": "U+1F622"}, {"id": "U+1F34E"}])
        db.keys.create("search page", ["read", "feedback"], collections=["python-docs"])
        revoked = db.keys.create("somebody who left", ["read"])[1]
        db.keys.revoke(revoked.id)
        with db.create("own-vectors", encoder="vectors", dim=2) as own:
            own.add_vectors(["a", "b"], [[1, 0], [0, 1]])
        db.create("empty", encoder="text")
    return kept


@contextmanager
def guest(browser: Browser, running: Running, kept: dict[str, str], width: int, scheme: str, port: int = 0) -> Iterator[Visit]:
    """A visitor with this screen."""
    size = {"width": width, "height": WIDTHS[width]}
    with visit(browser, running, port=port, viewport=size, color_scheme=scheme, reduced_motion="reduce") as one:
        one.page.add_init_script(
            f"for (const [name, value] of Object.entries({json.dumps(kept)})) localStorage.setItem(name, value)"
        )
        yield one


def teaching(page: Page) -> None:
    """The panel, which is folded away on small screens."""
    opener = page.locator(".teach-opener")
    if opener.is_visible():
        opener.click()


def asked(text: str) -> Callable[[Page], None]:
    def ask(page: Page) -> None:
        page.locator("#query").fill(text)
        page.locator("#query").press("Enter")
        page.locator(".score").first.wait_for()

    return ask


def filtered(page: Page) -> None:
    page.get_by_role("button", name="Filter", exact=True).click()
    asked("set the current line")(page)


def suggested(page: Page) -> None:
    teaching(page)
    page.get_by_role("button", name="What should I label next?").click()
    page.locator(".why").first.wait_for()


def previewed(page: Page) -> None:
    teaching(page)
    page.locator("#preview").click()
    page.locator(".report").wait_for(timeout=60_000)
    page.locator(".report").scroll_into_view_if_needed()


def adapted(page: Page) -> None:
    teaching(page)
    page.locator("#adapt").click()
    page.locator(".report").wait_for(timeout=60_000)
    page.locator(".report").scroll_into_view_if_needed()


def failed(page: Page) -> None:
    teaching(page)
    page.locator(".teach .failed").scroll_into_view_if_needed()


def opened(name: str) -> Callable[[Page], None]:
    def click(page: Page) -> None:
        page.get_by_role("button", name=name).first.click()
        page.locator("dialog").wait_for()

    return click


def reported(page: Page) -> None:
    page.locator("summary").first.click()
    page.wait_for_timeout(500)


def pointed(page: Page) -> None:
    box = page.locator("canvas").bounding_box()
    assert box is not None
    for step in range(40):  # until there is a point under it
        page.mouse.move(box["x"] + box["width"] * (0.3 + 0.01 * step), box["y"] + box["height"] / 2)
        if page.locator(".tip:not([hidden])").count():
            break
    page.wait_for_timeout(600)


def focused(page: Page) -> None:
    page.locator(".card").nth(1).focus()
    page.keyboard.press("ArrowDown")


def still(_: Page) -> None:
    """As it comes."""


VIEWS: list[tuple[str, str, Callable[[Page], None]]] = [
    ("search-texts", "#/python-docs/search", still),
    ("search-texts-hits", "#/python-docs/search", asked("set the current line")),
    ("search-texts-filter", "#/python-docs/search", filtered),
    ("search-pictures", "#/openmoji/search", still),
    ("search-pictures-like", "#/openmoji/search?like=U%2B1F622", focused),
    ("search-vectors", "#/own-vectors/search", still),
    ("search-empty", "#/empty/search", still),
    ("teach", "#/openmoji/search", teaching),
    ("teach-suggested", "#/openmoji/search", suggested),
    ("teach-preview", "#/python-docs/search", previewed),
    ("teach-failed", "#/own-vectors/search", failed),
    ("changes-texts", "#/python-docs/changes?q=set%20the%20current%20line", still),
    ("changes-pictures", "#/openmoji/changes", still),
    ("map-texts", "#/python-docs/map", pointed),
    ("map-pictures", "#/openmoji/map", pointed),
    ("versions", "#/python-docs/versions", reported),
    ("items-texts", "#/python-docs/items", still),
    ("items-pictures", "#/openmoji/items", still),
    ("item", "#/openmoji/items", opened("Open U")),
    ("collections", "#/-/operate/collections", still),
    ("new-collection", "#/-/operate/collections", opened("New collection")),
    ("sample-data", "#/-/operate/collections", opened("Sample data")),
    ("policy", "#/-/operate/collections", opened("Policy")),
    ("jobs", "#/-/operate/jobs", reported),
    ("keys", "#/-/operate/keys", still),
    ("new-key", "#/-/operate/keys", opened("New key")),
    ("health", "#/-/operate/health", lambda page: page.wait_for_timeout(4500)),
    ("not-there", "#/nothing/search", still),
]


def shoot(page: Page, out: Path, name: str) -> None:
    with suppress(Late):
        page.wait_for_load_state("networkidle", timeout=3000)
    page.screenshot(path=out / f"{name}.png")


def main() -> None:
    """Take all of them, or those whose names hold one of the words given."""
    parser = argparse.ArgumentParser(prog="python -m tests.screens")
    parser.add_argument("--out", type=Path, default=Path("screens"))
    parser.add_argument("only", nargs="*")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wanted = [view for view in VIEWS if not given.only or any(word in view[0] for word in given.only)]
    screens = [(width, scheme) for width in WIDTHS for scheme in ("light", "dark")]
    with tempfile.TemporaryDirectory() as place, launched() as browser:
        kept = fill(Path(place) / "db")
        with started(Path(place) / "db", workers=1, encoders=["text", "text:int8", "image", "vectors"]) as running:
            until(lambda: running.ask("GET", "/readyz").status_code == 200, 240)
            running.ask("POST", "/v1/collections/own-vectors/feedback", {"judgements": [{"item": "a", "concept": "first"}]})
            running.ask("POST", "/v1/collections/own-vectors/finetune", {}, headers={"Prefer": "wait=60"}, timeout=90)
            for width, scheme in screens:
                with guest(browser, running, kept, width, scheme) as one:
                    for name, where, does in wanted:
                        one.go("#/empty/search")
                        one.page.reload()
                        one.go(where)
                        one.arrived()
                        does(one.page)
                        shoot(one.page, given.out, f"{name}-{width}-{scheme}")
                        print(name, width, scheme, *one.problems, flush=True)
                        one.problems.clear()
            for width, scheme in screens if not given.only or "gone" in given.only else ():
                with relayed(running.port) as relay, guest(browser, running, kept, width, scheme, relay.port) as one:
                    one.go("#/python-docs/search")
                    one.arrived()
                    relay.shut()
                    one.page.get_by_role("button", name="More like this").first.click()
                    one.page.locator(".banner p").wait_for()
                    shoot(one.page, given.out, f"gone-{width}-{scheme}")
        with started(Path(place) / "new", workers=0) as running:
            for width, scheme in screens if not given.only or "welcome" in given.only else ():
                with guest(browser, running, {}, width, scheme) as one:
                    one.go()
                    one.arrived()
                    shoot(one.page, given.out, f"welcome-{width}-{scheme}")
                with visit(
                    browser, running, key=None, viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme
                ) as one:
                    one.go()
                    one.page.locator("dialog").wait_for()
                    shoot(one.page, given.out, f"key-{width}-{scheme}")
                    one.page.keyboard.press("Escape")
                    shoot(one.page, given.out, f"no-key-{width}-{scheme}")


if __name__ == "__main__":
    main()
