import base64
import gzip
import json
import re
import shutil

import pytest
from handmade import NASTY, SCRIPT, long_run, run_folder, trees

from mxa_lite.evidence import charts, report
from mxa_lite.evidence.attempts import attempts_of, save_transcripts
from mxa_lite.runfolder import RunFolder


def rollouts(html):
    packed = re.findall(r'class="rollout">([^<]*)<', html)
    return [json.loads(gzip.decompress(base64.b64decode(data))) for data in packed]


def test_the_report_of_a_finished_run_is_one_file_without_network(tmp_path):
    html = report.build(run_folder(tmp_path / "mine")).read_text()
    assert html.count("<svg") == 11
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


def test_held_out_accuracy_is_drawn_when_it_was_measured_during_training(tmp_path):
    run = run_folder(tmp_path / "mine")
    results = json.loads((run / "eval.json").read_text())
    RunFolder(run).write_json("eval.json", results | {"during": {"2": results["cold"]}})
    assert "<figcaption>Held-out accuracy" in report.build(run).read_text()
    RunFolder(run).write_json("eval.json", results | {"during": {}})
    assert "Held-out accuracy" not in report.build(run).read_text()


def test_held_out_accuracy_begins_cold_and_ends_with_the_final_adapters(tmp_path, monkeypatch):
    run, seen = run_folder(tmp_path / "mine"), {}
    results = json.loads((run / "eval.json").read_text())
    lines = RunFolder(run).read_metrics()
    monkeypatch.setattr(charts, "measured", lambda *given: seen.update(given[-1]) or "")
    report.figures(lines, results | {"during": {"2": {"designed": {}}}})
    assert seen == {0: results["cold"], 2: {"designed": {}}, 4: results["final"]}
    seen.clear()
    report.figures(lines, {"during": {"2": {"designed": {}}}})
    assert seen == {2: {"designed": {}}}


def test_a_run_without_a_designer_has_no_curve_of_one(tmp_path):
    run = run_folder(tmp_path / "mine")
    lines = RunFolder(run).read_metrics()
    for line in lines:
        line["completion_length"]["designer"] = None
    reward = report.figures(lines, {})[0]["charts"][1]
    assert "executor" in reward["svg"] and "designer" not in reward["svg"]


def test_a_hundred_steps_stay_under_ten_megabytes(tmp_path):
    page = report.build(long_run(tmp_path / "mine"))
    assert 5_000_000 < page.stat().st_size < 10_000_000
    labels = re.findall(r"<option[^>]*>step (\d+)<", page.read_text())
    assert labels[0] == "1" and labels[-1] == "100"


def test_questions_of_kinds_have_their_tables(tmp_path):
    run = run_folder(tmp_path / "mine")
    results = json.loads((run / "eval.json").read_text())
    for when, share in (("cold", 0.25), ("final", 0.625)):
        patterns = {"vote": share, "<b>own</b>": 1 - share}
        own = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "patterns": patterns}
        results[when]["designed"]["kinds"] = {"long": own}
    results["final"]["fixed_best"] = results["final"]["single"] | {"system": "vote / chain"}
    RunFolder(run).write_json("eval.json", results)
    html = report.build(run).read_text()
    assert "<td>long<td>trained<td>38 %<td>62 %" in html
    assert "<th>&lt;b&gt;own&lt;/b&gt;<th>vote" in html
    assert "fixed best <small>vote / chain</small>" in html


def test_the_headline_stands_beside_its_rivals(tmp_path):
    run = run_folder(tmp_path / "mine")
    assert "Beside its rivals" not in report.build(run).read_text()
    beside = {
        "against": {"single": {"difference": 0.125, "low": 0.05, "high": 0.2}},
        "greedy_against": {"single_greedy": {"difference": -0.01, "low": -0.1, "high": 0.1}},
        "flips": {
            **{"pairs": 4, "kept": 0.48, "newly_right": 0, "newly_right_kept": None},
            **{"wrong_cold": 3, "right_where_kept": 0.0, "right_where_changed": None},
        },
        "total_variation": {"final": {"long, short": 0.75}},
    }
    RunFolder(run).write_json("summary.json", {"mode": "designed", "steps": 4, **beside})
    html = report.build(run).read_text()
    assert "<td>single<td>+12.5 <small>[+5.0, +20.0]</small>" in html
    assert "<td>single greedy<td><td>-1.0" in html
    assert "of all 4 pairs of attempts 48 % did" in html


def test_a_state_that_stops_learning_is_named_above_the_tables(tmp_path):
    run = run_folder(tmp_path / "mine")
    lines = [line | {"valid_scripts": 0.0} for line in RunFolder(run).read_metrics()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "After step 3: absorbing state" in report.build(run).read_text()


def test_a_transcript_says_what_its_prediction_says(tmp_path):
    """Also where the answer is right and no reply holds it, which is not paid."""
    made = trees(1, 2)
    for call in made[0].designs[0].executions[0].calls:
        call.reply = "no answer"
    save_transcripts(made, tmp_path, "reply")
    lines = (tmp_path / "transcripts.jsonl").read_text().splitlines()
    designs = [design for line in lines for design in json.loads(line)["designs"]]
    verdicts = [e["correct"] for d in designs for e in d["executions"] or [{"correct": 0.0}]]
    assert verdicts == [a.correct for a in attempts_of(made, "reply")] == [0, 1, 1, 1, 0]
    call = designs[0]["call"]
    assert "logps" not in call
    assert call["completion_ids"] == len(made[0].designs[0].call.completion_ids)
