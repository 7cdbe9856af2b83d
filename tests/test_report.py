import base64
import gzip
import json
import re
import shutil

import pytest
import yaml
from handmade import NASTY, SCRIPT, long_run, measured, run_folder, trees, why_run

from mxa_lite.evidence import report
from mxa_lite.evidence.attempts import attempts_of, save_transcripts
from mxa_lite.runfolder import RunFolder


def unpacked(html, place):
    packed = re.findall(rf"{place}[^>]*>([^<]*)</script", html)
    return [json.loads(gzip.decompress(base64.b64decode(data))) for data in packed]


def rollouts(html):
    return unpacked(html, 'class="rollout"')


def test_the_report_of_a_finished_run_is_one_file_without_network(tmp_path):
    html = report.build(run_folder(tmp_path / "mine")).read_text()
    assert len(unpacked(html, 'id="numbers"')[0]["lines"]) == 4
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


def test_a_thousand_steps_stay_under_five_megabytes(tmp_path):
    """Those of ten runs of a hundred, one after the other."""
    run = long_run(tmp_path / "mine")
    lines = RunFolder(run).read_metrics()
    longer = [line | {"step": line["step"] + 100 * i} for i in range(10) for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in longer))
    page = report.build(run)
    assert 2_000_000 < page.stat().st_size < 5_000_000
    labels = re.findall(r"<option[^>]*>step (\d+)<", page.read_text())
    assert labels[0] == "1" and labels[-1] == "100"
    assert "of 1000 steps" in page.read_text()


def test_transcripts_beyond_the_room_are_left_out_and_counted(tmp_path, monkeypatch):
    run = run_folder(tmp_path / "mine")
    whole = report.transcripts(run)
    assert (whole["shown"], whole["questions"]) == (2, 2)
    report._transcripts.cache_clear()
    monkeypatch.setattr(report, "TRANSCRIPT_BUDGET", sum(map(len, whole["data"])) - 1)
    html = report.build(run).read_text()
    report._transcripts.cache_clear()
    assert "on 1 of 2 held-out questions" in html
    ends = unpacked(html, 'class="transcripts"')
    assert [[t["question"]["id"] for t in end["trees"]] for end in ends] == [["q1"], ["q1"]]


def test_the_designs_of_why_it_learned_are_the_run_folder_s(tmp_path):
    """Read again from rollouts and transcripts."""
    run = why_run(tmp_path / "mine")
    (times,) = unpacked(report.build(run).read_text(), 'id="designs"')
    sources = {
        **{"steps 1 to 5": range(1, 6), "steps 8 to 12": range(8, 13)},
        **{"held out, cold": "cold", "held out, trained": "final"},
    }
    assert list(times) == list(sources)
    for time, source in sources.items():
        names = [f"predictions/{source}/transcripts.jsonl"]
        if not isinstance(source, str):
            names = [f"rollouts/step-{step:05d}.jsonl" for step in source]
        rows = []
        for tree in (json.loads(line) for n in names for line in (run / n).open()):
            kind = tree["question"]["meta"].get("kind", "")
            for design in tree["designs"]:
                verdicts = [e["correct"] for e in design["executions"]]
                right = sum(verdicts) / max(len(verdicts), 1)
                told = "Work step by step." if design["script"] == SCRIPT else ""
                rows.append([kind, design["pattern"], right, told])
        assert times[time] == rows
    assert len({tuple(row) for rows in times.values() for row in rows}) > 6


def test_the_head_says_what_was_run_where_and_how_it_differs_from_the_defaults(tmp_path):
    run = run_folder(tmp_path / "mine", ["lora.r=3"])
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["versions"]["machine"] = "2 cores of <b>Test</b>, no GPU"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    RunFolder(run).write_json("summary.json", {"steps": 4, "finished": "2026-01-02 03:04"})
    html = report.build(run).read_text()
    for said in ("<dd>embedded 4bit", "<dd>arithmetic", "&lt;b&gt;Test", "<dd>2026-01-02 03:04"):
        assert said in html
    assert "<code>lora.r: 3</code>" in html and "<code>lora.alpha" not in html
    assert "<dd>0 min 12 s" in html  # four steps of three seconds
    head = html[html.index('class="beside"') : html.index("</table>")]
    for label in ("cold", "trained", "one agent", "only the designer trained"):
        assert label in head


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
            **{"pairs": 4, "kept": 0.48, "newly_right": 1, "newly_right_kept": None},
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


def test_what_eval_found_beyond_the_run_reaches_its_page(tmp_path):
    run = run_folder(tmp_path / "mine")
    same = json.loads((run / "eval.json").read_text())["final"]
    found = {"final": same | {"fixed_best": measured(1, 4) | {"system": "vote"}}}
    found |= {"with": {"single": measured(3, 4)}, "seconds": {"final": {"fixed_best": 0.5}}}
    pairs = {"single": 0.1, "fixed_best": -0.2, "with_single": 0.25}
    found["differences"] = [
        {"a": "designed", "b": b, "difference": d, "low": d - 0.1, "high": d + 0.1, "questions": 2}
        for b, d in pairs.items()
    ]
    before = report.version(run)
    RunFolder(run).write_json(report.AGAIN, found)
    assert report.version(run) != before
    html = report.build(run).read_text()
    assert re.search(r"<tr><td>fixed best.*trained, by eval.*0\.250.*<td>0\.50</tr>", html)
    assert "<td>of the other run<td>0.750" in html
    table = html.partition("Measured by eval")[2].partition("</table>")[0]
    assert table.count("<tr><td>") == 2 and "<td>fixed best<td>-20.0" in table
    assert "<td>the other run: single<td>+25.0" in table
    RunFolder(run).write_json(report.AGAIN, {"final": same})
    assert "by eval" not in report.build(run).read_text()
