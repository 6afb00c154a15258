"""Pictures on their way: sent, followed, cancelled, refused, found again, and many at once."""

import base64
import re

import pytest
from browsing import SAMPLE, Studio, Visit, choose, job_of, wait_for_result, working
from factories import photo, saved
from hosts import noise
from playwright.sync_api import expect

pytestmark = pytest.mark.e2e
# Each large picture is another: an equal one would be answered at once by the earlier result.


def test_a_photograph_is_sent_followed_tile_by_tile_and_shown(visit: Visit) -> None:
    page = visit()
    choose(page, ("large.png", noise(400, 500, seed=1)))
    card = page.locator(".card")

    expect(card.locator(".sizes")).to_have_text("500 × 400 → 2,000 × 1,600")
    seen = working(page)
    assert seen["progress"]
    assert seen["panel"].startswith("Working, tile")
    assert not seen["slides"]
    wait_for_result(page)
    expect(card.locator(".state")).to_have_text(re.compile(r"Ready, [\d.]+ m?s"))
    assert card.locator("progress").is_hidden()
    facts = page.locator("#facts").inner_text().replace("\u00a0", " ")
    for words in ("2,000 × 1,600", "tiny", "float32", "network", "kept until"):
        assert words in facts
    assert page.locator("#announcer").inner_text() == "large.png: Ready"


def test_the_strip_of_a_shipped_model_has_its_scores(visit: Visit) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)), model="lite")
    wait_for_result(page)

    assert "28.1 / 27.5 / 26.9 dB" in page.locator("#facts").inner_text()


def test_what_is_cancelled_stops_and_may_be_tried_again(visit: Visit, studio: Studio) -> None:
    page = visit()
    choose(page, ("large.png", noise(1000, 1000, seed=2)))
    state = page.locator(".card .state")
    working(page)
    job_id = job_of(page)
    page.get_by_role("button", name="Cancel large.png").click()
    expect(state).to_have_text("Cancelled")
    assert studio.http.get(f"/jobs/{job_id}").json()["state"] == "cancelled"

    page.get_by_role("button", name="Try large.png again").click()
    working(page)
    assert job_of(page) != job_id
    page.get_by_role("button", name="Cancel large.png").click()


def test_what_is_removed_is_erased(visit: Visit, studio: Studio) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    job_id = job_of(page)
    with page.expect_response(lambda response: response.request.method == "DELETE") as erased:
        page.get_by_role("button", name="Remove small.png").click()

    assert erased.value.status == 204
    assert studio.http.get(f"/jobs/{job_id}").status_code == 404
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.evaluate("localStorage['gdsr.pictures']") == "[]"


def test_a_refusal_is_told_in_the_words_of_the_service(visit: Visit, studio: Studio) -> None:
    text = b"This is a letter, not a photograph. " * 20
    page = visit()
    choose(page, ("letter.jpg", text), ("broken.png", noise(20, 20)[:300]))
    first, second = page.locator(".card").all()
    refusals = [studio.http.post("/upscale", content=text).json()]
    refusals.append(studio.http.post("/upscale", content=b"").json())

    expect(first.locator(".state")).to_have_text(refusals[0]["title"])
    expect(first.locator(".reason")).to_have_text(refusals[0]["detail"])
    expect(second.locator(".state")).to_have_text("The picture is damaged")
    assert first.get_by_role("button", name="Remove letter.jpg").is_visible()


def test_a_picture_comes_back_after_a_reload_with_its_original(visit: Visit) -> None:
    page = visit()
    choose(page, ("first.png", noise(24, 24)))
    wait_for_result(page)
    choose(page, ("second.png", noise(400, 500, seed=3)))
    working(page)
    page.reload()

    assert page.locator(".card .name").all_inner_texts() == ["second.png", "first.png"]
    expect(page.locator(".card .thumb canvas")).to_have_count(2)
    expect(page.locator(".card .state").first).to_have_text(re.compile("Working|Ready"))
    wait_for_result(page)
    expect(page.locator("#left-tag")).to_have_text("Original")
    page.locator(".card .open").last.click()
    wait_for_result(page)
    assert page.locator(".card .open[aria-pressed=true]").inner_text().strip() == "first.png"


def test_what_the_service_has_forgotten_is_gone_after_a_reload(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    choose(page, ("small.png", noise(16, 16)))
    wait_for_result(page)
    studio.http.delete(f"/jobs/{job_of(page)}")
    page.reload()

    expect(page.locator(".card")).to_have_count(0)
    assert page.evaluate("localStorage['gdsr.pictures']") == "[]"


def test_many_pictures_are_all_done_though_few_lines_are_open(visit: Visit) -> None:
    page = visit()
    choose(page, *((f"{n}.png", noise(16, 16 + n)) for n in range(9)))

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(9)
    assert page.locator(".card .name").all_inner_texts() == [f"{n}.png" for n in range(9)]


def test_a_picture_that_the_browser_cannot_read_is_shown_when_it_is_done(visit: Visit) -> None:
    page = visit()
    choose(page, ("scan.tif", saved(photo(24, 32), "TIFF")))
    wait_for_result(page)

    expect(page.locator(".card .sizes")).to_have_text("32 × 24 → 128 × 96")
    expect(page.locator(".card .thumb canvas")).to_have_count(1)
    assert page.locator("#divider").is_hidden()


def test_pasted_and_dropped_pictures_are_taken(visit: Visit) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.select_option("#model", "tiny")
    give = """([content, event, name]) => {
      const carried = new DataTransfer();
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      carried.items.add(new File([bytes], name, { type: "image/jpeg" }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(event === "paste"
        ? new ClipboardEvent("paste", { clipboardData: carried, ...options })
        : new DragEvent("drop", { dataTransfer: carried, ...options }));
    }"""
    content = base64.b64encode(SAMPLE.read_bytes()).decode()
    page.evaluate(give, [content, "paste", "pasted.jpg"])
    page.evaluate(give, [content, "drop", "dropped.jpg"])

    expect(page.locator(".card[data-state=succeeded]")).to_have_count(2)
    assert page.locator(".card .name").all_inner_texts() == ["dropped.jpg", "pasted.jpg"]
