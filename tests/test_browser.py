"""The pages in a real browser: a person clicks through a rollout and asks a question."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from handmade import run_folder
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_design_serve import NASTY, canned

from mxa_lite.serve import Server

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture
def link(tmp_path: Path) -> Iterator[str]:
    run = run_folder(tmp_path / "mine")
    with closing(Server(run, answerer=canned)) as made:
        made.close = made.server_close  # type: ignore[method-assign]
        thread = Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made.link
        made.shutdown()
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def test_a_person_opens_a_rollout_down_to_a_call(browser: webdriver.Chrome, link: str) -> None:
    browser.get(link)
    for kind in ("question", "design", "execution", "call"):
        closed = f"details[data-kind={kind}] > summary"
        WebDriverWait(browser, 10).until(lambda b, s=closed: b.find_elements(By.CSS_SELECTOR, s))
        browser.find_element(By.CSS_SELECTOR, closed).click()
    assert browser.find_elements(By.CSS_SELECTOR, "svg g[tabindex]")  # the workflow, drawn
    call = browser.find_element(By.CSS_SELECTOR, "details[data-kind=call]").text
    assert "system\nSolve." in call and "reply" in call
    page = "document.documentElement"  # nothing sticks out of a narrow window
    assert browser.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")


def test_a_question_asked_in_the_page_is_answered_and_its_markup_stays_text(
    browser: webdriver.Chrome, link: str
) -> None:
    browser.get(link)
    browser.find_element(By.ID, "question").send_keys(f"What? {NASTY}")
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    WebDriverWait(browser, 10).until(lambda b: "What?" in b.find_element(By.TAG_NAME, "body").text)
    assert NASTY.split()[0] in browser.find_element(By.TAG_NAME, "body").text
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert "owned" not in browser.title
