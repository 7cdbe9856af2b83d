import base64
import gzip
import json
import re
import shutil
import subprocess
import time

import pytest
from handmade import NASTY, SCRIPT, run_folder

from mxa_lite import report
from mxa_lite.runfolder import RunFolder

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def rollouts(html):
    packed = re.findall(r'class="rollout">([^<]*)<', html)
    return [json.loads(gzip.decompress(base64.b64decode(data))) for data in packed]


def dump(page, fragment, folder):
    """The page's DOM after its scripts ran in a real browser."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    command = [BROWSER, *flags.split(), *quiet.split(), "--virtual-time-budget=10000"]
    url = f"file://{page}{fragment}"
    return subprocess.run(
        [*command, f"--user-data-dir={folder}", url], capture_output=True, text=True, timeout=60
    ).stdout


def test_the_report_of_a_finished_run_is_one_file_without_network(tmp_path):
    html = report.build(run_folder(tmp_path / "mine")).read_text()
    assert html.count("<svg") == 10
    assert "0.250 → 0.750" in html
    assert "+50.0 points" in html
    assert "designer trained" in html
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert "default-src 'none'" in html


def test_what_a_model_wrote_is_no_markup(tmp_path):
    html = report.build(run_folder(tmp_path / "mine")).read_text()
    assert "owned" not in html
    assert any(NASTY in text for text in rollouts(html)[0]["texts"])
    assert "logps" not in rollouts(html)[0]["trees"][0]["designs"][0]["call"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.json", "summary.json", "recipe.yaml"])
def test_a_missing_file_is_left_out(tmp_path, name):
    run = run_folder(tmp_path / "mine")
    (run / name).unlink()
    assert "</html>" in report.build(run).read_text()


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    run = run_folder(tmp_path / "mine")
    for name in ("eval.json", "summary.json"):
        (run / name).unlink()
    shutil.rmtree(run / "rollouts")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "ro')
    html = report.build(run).read_text()
    assert "not finished: 4 of 4 steps" in html
    assert 'id="rollouts"' not in html


def test_a_run_without_swap_has_no_swap_table(tmp_path):
    run = run_folder(tmp_path / "mine")
    results = json.loads((run / "eval.json").read_text())
    RunFolder(run).write_json("eval.json", results | {"swap": None})
    assert "designer trained" not in report.build(run).read_text()


def test_tokens_of_a_script_join_to_the_script():
    for script in (SCRIPT, "\n\n x = (\r\n", "", "é\x00'''"):
        assert "".join(text for _, text in report.highlight(script)) == script.replace("\r\n", "\n")


def test_rollouts_keep_rewards_and_advantages(tmp_path):
    html = report.build(run_folder(tmp_path / "mine")).read_text()
    good, bad = rollouts(html)[0]["trees"][1]["designs"]
    assert good["reward"] > bad["reward"] == 0
    assert good["call"]["advantage"] > 0 > bad["call"]["advantage"]
    assert bad["outcome"] == "syntax_error"
    assert len(good["executions"][0]["nodes"]) == 4


def test_any_beginning_of_spread_out_covers_the_whole():
    assert report.spread_out(0) == []
    assert report.spread_out(1) == [0]
    assert report.spread_out(5) == [0, 4, 2, 1, 3]
    assert sorted(report.spread_out(100)) == list(range(100))


def test_a_hundred_steps_stay_under_ten_megabytes(tmp_path, monkeypatch):
    run = run_folder(tmp_path / "mine", steps=100)
    monkeypatch.setattr(report, "BUDGET", 20_000)
    start = time.perf_counter()
    size = report.build(run).stat().st_size
    assert time.perf_counter() - start < 20
    assert size < report.BUDGET + 1_000_000
    assert len(rollouts((run / "report.html").read_text())) > 1


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_opens_a_rollout_and_shows_markup_as_text(tmp_path):
    page = report.build(run_folder(tmp_path / "mine"))
    dom = dump(page, "#2/1/0/0", tmp_path / "profile")
    assert "<title>mine · mxa-lite</title>" in dom
    assert "call 3: solver (0.2)" in dom
    assert "&lt;/script&gt;&lt;script&gt;" in dom
    assert "<img" not in dom
    assert dom.count("<g tabindex") == 4
