"""A connection that breaks, a key that is asked for."""

from pathlib import Path

import pytest
from browsing import Visit, choose, opened, wait_for_result, working
from hosts import Site, noise
from playwright.sync_api import expect
from processes import free_port

from service.access.auth import hash_key

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
KEY = "a-key-of-anns-that-nobody-else-has"


def test_a_lost_connection_is_told_and_the_picture_goes_on_when_it_is_back(visit: Visit) -> None:
    page = visit()
    page.locator("#model option").first.wait_for(state="attached")
    page.context.set_offline(True)
    choose(page, ("small.png", noise(24, 24)))
    notice = page.locator("#connection")
    expect(notice).to_contain_text("The server cannot be reached. Trying again in")
    assert page.locator(".card[data-state=sending]").count() == 1

    notice.get_by_role("button", name="Try now").click()
    expect(notice).to_contain_text("Trying again in")
    page.context.set_offline(False)
    wait_for_result(page)
    expect(notice).to_be_hidden()


@pytest.mark.slow
def test_a_service_that_restarts_finds_its_watchers_again(visit: Visit, site: Site) -> None:
    port = free_port()
    with opened(site, port=port) as first:
        page = visit(address=first.address)
        choose(page, ("large.png", noise(400, 500, seed=9)))
        working(page)
    expect(page.locator("#connection")).to_be_visible()

    with opened(site, port=port):
        wait_for_result(page)
        expect(page.locator("#connection")).to_be_hidden()
        page.close()


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"ann:{hash_key(KEY)}\n")
    return file


def test_a_key_is_asked_for_kept_for_the_tab_and_never_in_an_address(
    visit: Visit, site: Site, keyed: Path
) -> None:
    with opened(site, api_keys_file=keyed) as studio:
        page = visit(address=studio.address)
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        choose(page, ("small.png", noise(24, 24)))
        dialog = page.get_by_role("dialog", name="Authentication required")
        expect(dialog).to_be_visible()
        without = studio.http.post("/upscale", content=b"").json()["detail"]
        expect(page.locator("#key-reason")).to_have_text(without)
        page.get_by_label("API key").fill("not-the-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-reason")).not_to_have_text(without)
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        wait_for_result(page)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.path().stat().st_size > 0

        page.reload()
        wait_for_result(page)
        assert dialog.is_hidden()
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        local, session, cookies = page.evaluate(f"JSON.parse({kept})")
        assert (KEY in str(local), KEY in str(session), cookies) == (False, True, "")
        assert len(addresses) > 10
        assert not any(KEY in address for address in addresses)

        other = page.context.new_page()
        other.goto(studio.address)
        expect(other.get_by_role("dialog")).to_be_visible()
        other.keyboard.press("Escape")
        expect(other.locator("#working")).to_contain_text("An API key is needed")
        page.context.close()
