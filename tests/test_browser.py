"""The pages in a real browser: a person clicks through a rollout and asks a question."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import SCRIPT, long_run, run_folder, served, why_run
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_design_serve import NASTY, canned

from mxa_lite.evidence import report
from mxa_lite.runs.compare import compare

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture
def link(tmp_path: Path) -> Iterator[str]:
    with served(run_folder(tmp_path / "mine"), canned) as server:
        yield server.link


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, *kinds: str) -> None:
    """Click the first fold of each kind, one inside the other."""
    for kind in kinds:
        place = By.CSS_SELECTOR, f"[data-kind={kind}] > summary"
        WebDriverWait(browser, 30).until(lambda b, place=place: b.find_elements(*place))
        browser.find_element(*place).click()


def test_a_person_opens_a_rollout_down_to_a_call(browser: webdriver.Chrome, link: str) -> None:
    browser.get(link)
    opened(browser, "question", "design", "execution", "execution] > [data-kind=call")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".graph g")) == 4  # the workflow, drawn
    call = browser.find_element(By.CSS_SELECTOR, "[data-kind=call][open]").text
    assert "system\nSolve." in call and "reply" in call
    page = "document.documentElement"  # nothing sticks out of a narrow window
    assert browser.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")


def test_a_box_of_the_workflow_opens_its_call_with_the_keyboard(
    browser: webdriver.Chrome, link: str
) -> None:
    browser.get(link)
    opened(browser, "question", "design", "execution")
    browser.find_elements(By.CSS_SELECTOR, ".graph g")[2].send_keys(Keys.ENTER)
    calls = browser.find_elements(By.CSS_SELECTOR, "[data-kind=execution] > [data-kind=call]")
    assert [call.get_attribute("open") for call in calls] == [None, "true", None]


def test_markup_in_a_script_stays_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    browser.get(report.build(run_folder(tmp_path / "mine")).as_uri())
    opened(browser, "question", "design")
    script = browser.find_element(By.CSS_SELECTOR, "pre.script")
    assert NASTY in script.text and script.get_property("textContent") == SCRIPT  # though coloured
    assert len(script.find_elements(By.CSS_SELECTOR, ".c, .s, .n, .m")) > 5
    assert not browser.find_elements(By.CSS_SELECTOR, "#browser img, #browser script")
    assert browser.title == "mine · mxa-lite"


def test_any_step_of_a_hundred_can_be_chosen(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """The last lies open; the rollouts of another are unpacked when it is chosen."""
    browser.get(report.build(long_run(tmp_path / "mine")).as_uri())
    opened(browser, "question")
    chooser = browser.find_element(By.ID, "step")
    assert chooser.get_property("value") == str(
        len(chooser.find_elements(By.TAG_NAME, "option")) - 1
    )
    chooser.send_keys(Keys.HOME)
    folded = By.CSS_SELECTOR, "#browser > [data-kind=question]:not([open])"
    WebDriverWait(browser, 60).until(lambda b: len(b.find_elements(*folded)) == 2)
    opened(browser, "question", "design")


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    """What the elements say, read in one go, since a page may make them anew at any time."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
    return browser.execute_script(script, selector)


def listed(browser: webdriver.Chrome, count: int) -> None:
    """Wait until so many transcripts are listed."""
    WebDriverWait(browser, 30).until(lambda b: len(texts(b, "#pairs > details")) == count)


def choose(browser: webdriver.Chrome, name: str, value: str, count: int) -> None:
    """A choice in one filter leaves so many rows; it is taken back afterwards."""
    browser.find_element(By.CSS_SELECTOR, f"#filters [name={name}]").send_keys(value)
    listed(browser, count)
    browser.find_element(By.CSS_SELECTOR, "#filters [type=reset]").click()
    listed(browser, 4)


def test_transcripts_are_filtered_searched_and_linked(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Two questions with two designs: cold one is right, trained three."""
    run = run_folder(tmp_path / "mine", cold=((0, 0), (1, 0)), final=((1, 1), (1, 0)))
    page = report.build(run).as_uri()
    browser.get(page)
    listed(browser, 4)
    choose(browser, "result", "became right", 2)
    choose(browser, "pattern", "debate", 2)  # cold; trained all are votes
    choose(browser, "kind", "sums", 2)
    choose(browser, "search", "question 1", 2)
    choose(browser, "search", "nothing has this", 0)
    browser.get(f"{page}#held-q2-1")
    browser.refresh()
    sides = "#held-q2-1[open] .side"
    WebDriverWait(browser, 30).until(lambda b: len(texts(b, sides)) == 2)
    cold, trained = texts(browser, sides)
    assert "\n".join(cold.split()).startswith("Cold\nright") and NASTY in trained
    assert not browser.find_elements(By.CSS_SELECTOR, "#pairs img, #pairs script")
    page_element = "document.documentElement"  # nothing sticks out of a narrow window
    width = f"{page_element}.scrollWidth <= {page_element}.clientWidth"
    assert browser.execute_script(f"return {width}")


def test_every_number_of_why_it_learned_is_the_run_folder_s(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Counted again from rollouts and transcripts, of all questions and of each kind."""
    run = why_run(tmp_path / "mine")
    browser.get(report.build(run).as_uri())
    WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, "table.why"))
    for heading in browser.find_elements(By.CSS_SELECTOR, "#patterns summary"):
        heading.click()
    tables = browser.find_elements(By.CSS_SELECTOR, "table.why")
    names = [f"rollouts/step-{step:05d}.jsonl" for step in range(1, 13)]
    ends = [f"predictions/{when}/transcripts.jsonl" for when in ("cold", "final")]
    columns = [names[:5], names[-5:], ends[:1], ends[1:]]
    for table, kind in zip(tables, (None, "others", "sums", "told"), strict=True):
        rows = {
            cells[0]: cells[1:]
            for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")
            if (cells := [cell.text for cell in row.find_elements(By.TAG_NAME, "td")])
        }
        for column, files in enumerate(columns):
            tries: dict[str, list[float]] = {}
            for tree in (json.loads(line) for name in files for line in (run / name).open()):
                for design in tree["designs"]:
                    verdicts = [e["correct"] for e in design["executions"]]
                    if kind in (None, "told", tree["question"]["meta"].get("kind")):
                        mean = sum(verdicts) / max(len(verdicts), 1)
                        told = kind == "told" and design["script"] == SCRIPT
                        name = design["pattern"] + ": Work step by step." * told
                        tries.setdefault(name, []).append(mean)
            total = sum(map(len, tries.values()))
            for pattern, cells in rows.items():
                own = tries.get(pattern)
                share, right = (len(own) / total, sum(own) / len(own)) if own else (0, 0)
                share, right = 100 * share + 1e-9, right + 1e-9  # halves go up, as in the page
                said = f"{share:.0f} % {right:.2f} right" if own else ""
                assert " ".join(cells[column].split()) == said, (kind, pattern, column)
    # By hand. Cold, sums: vote 0, debate 1; others: 0, 0. Trained: votes alone, 2 of 2 and 1 of 2.
    # Sums: votes -> share 1/4 to 1/2, 0 to 1; debate -> 1/4 to 0 at 1. Others: vote 0 to 1/2.
    # Other patterns: (1/4 * 1/2 - 1/4) + 1/4 * 1/4 = -0.0625; the same: 3/8 * 1 + 3/8 * 1/2.
    said = browser.find_element(By.ID, "gain").text
    assert said.startswith("Of the +50.0 points -6.3 come from writing other patterns, +56.3 from")


def test_a_curve_says_its_values_at_a_step_with_the_keyboard(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    browser.get(report.build(run_folder(tmp_path / "mine")).as_uri())
    drawn = By.CSS_SELECTOR, "svg.curve"
    WebDriverWait(browser, 30).until(lambda b: len(b.find_elements(*drawn)) > 10)
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, "figcaption")]
    for name in ("Held-out accuracy", "Loss", "Gradient norm", "Learning rate", "Mean reward"):
        assert name in titles
    held_out = browser.find_elements(*drawn)[titles.index("Held-out accuracy")]
    held_out.send_keys(Keys.HOME)
    assert (
        "step 0\ncorrect 0.25 [0.125, 0.625]"
        in browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text
    )
    curve = browser.find_elements(*drawn)[titles.index("Loss")]
    curve.send_keys(Keys.END, Keys.ARROW_LEFT)
    shown = browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text
    assert shown == "step 3\nloss 0.1"
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_question_asked_in_the_page_is_answered_and_its_markup_stays_text(
    browser: webdriver.Chrome, link: str
) -> None:
    browser.get(link)
    browser.find_element(By.ID, "question").send_keys(f"What? {NASTY}")
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    ran = By.CSS_SELECTOR, "[data-kind=execution][open]"  # what happened lies open
    WebDriverWait(browser, 30).until(lambda b: b.find_elements(*ran))
    assert NASTY.split()[0] in browser.find_element(By.TAG_NAME, "body").text
    assert not browser.find_elements(By.TAG_NAME, "img")
    assert "owned" not in browser.title


def test_a_comparison_draws_its_rows_side_by_side_and_says_who_gains(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    names, sets = ("a<b>", "c", "d"), (("seed=1",), ("seed=2",), ("schedule.mode=coupled",))
    runs = [str(run_folder(tmp_path / n, own)) for n, own in zip(names, sets, strict=True)]
    compare(runs, (), tmp_path / "out", 1, print)
    page = tmp_path / "out" / "compare.html"
    assert page.stat().st_size < 5_000_000 and 'src="' not in page.read_text()
    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, "svg.curve"))
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, "figcaption")]
    assert titles[0] == "Executions correct in training"
    assert titles[2:] == ["Patterns: a<b>", "Patterns: d"]
    browser.find_element(By.CSS_SELECTOR, "svg.curve").send_keys(Keys.HOME)
    shown = browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text
    first = json.loads((page.parent / "compare.json").read_text())["rows"][0]
    assert shown.startswith(f"step 1\na<b> {first['curve'][0]['correct']:.3g} [")  # two seeds
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "Who gains" in text and "newly right" in text and "against a<b>" in text
    linked = [a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, ".about a")]
    assert len(linked) == 3 and linked[1] == (tmp_path / "c" / "report.html").as_uri()
    root = "document.documentElement"  # nothing sticks out of a narrow window
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
