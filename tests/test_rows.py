"""Rows of data files: what is left out and named, what is held out, what is no file at all."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_cli import assert_refused, mxa

from mxa_lite.errors import InputError
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import TaskSpec
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks import rows


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def questions(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(count)]


def test_bad_rows_are_left_out_and_named_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"question": "One?", "answer": "1"},
        "not json",
        {"question": "", "answer": "2"},
        {"question": "Two?", "answer": None},
        "[1, 2]",
        {"question": " one? ", "answer": "1"},
        {"question": "x" * 20_000, "answer": "1"},
        {"answer": "1"},
        "",
        {"question": "Three?", "answer": 3},
    ]
    found = tasks.load(TaskSpec(test=write(tmp_path / "t.jsonl", rows), name="gsm8k"), 0, False)
    assert [question.text for question in found.test] == ["One?", "Three?"]
    (note,) = found.notes
    for part in (
        "8 of 10 rows left out",
        "2, 5, 9 is not a JSON object",
        "3 has no question",
        "4 has no answer",
        "6 repeats an earlier question",
        "7 is over-long",
        "8 has no 'question'",
    ):
        assert part in note


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "no usable row"),
        ("b.jsonl", b'{"question": "q", "wrong": 1}\n', "no usable row: row 1 has no 'answer'"),
        ("c.jsonl", b"\xff\xfe\x00", "cannot be read"),
        ("d.parquet", b"PAR1 not really", "cannot be read"),
        ("e.txt", b"question", "ends in"),
        ("f.json", b"[" * 50_000, "cannot be read: maximum recursion"),
        (
            "g.csv",
            b"question,answer\nWhat is 1,000+1?,1001\n",
            "row 2 has more cells than the header",
        ),
    ],
)
def test_a_file_without_a_usable_row_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        tasks.load(TaskSpec(train=str(tmp_path / name)), 0)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_rows_whose_answer_nobody_could_give_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"question": "Roots?", "final_answer": ["2", "3"]},
        '{"question": "NaN?", "answer": NaN}',
        {"question": "Long?", "answer": "x" * 600},
        {"question": "Object?", "answer": {"value": 1}},
        {"question": [{"role": "user"}], "answer": 1},
        {"question": "Show?", "tests": ["f(1) == 2"]},
    ]
    path = write(tmp_path / "t.jsonl", rows)
    found = tasks.load(TaskSpec(train="x", test=path), 0, False)
    assert [question.gold for question in found.test] == ["2, 3"]
    for part in (
        "5 of 6 rows",
        "2 has no answer",
        "3 has an over-long answer",
        "4, 5 has values of another form",
        "6 has a test without an assert",
    ):
        assert part in found.notes[0]


def test_held_out_questions_are_chosen_by_hash_whatever_the_order_or_the_seed(
    tmp_path: Path,
) -> None:
    rows = questions(50)
    shuffled = random.Random(1).sample(rows, len(rows))
    one = tasks.load(TaskSpec(train=write(tmp_path / "a.jsonl", rows)), 1)
    two = tasks.load(TaskSpec(train=write(tmp_path / "b.jsonl", shuffled)), 2)
    assert len(one.test) == 5 and len(one.train) == 45
    assert {q.id for q in one.test} == {q.id for q in two.test}
    assert not {q.id for q in one.test} & {q.id for q in one.train}
    assert "5 of 50 questions held out" in one.notes[0]
    assert "removed from training" in one.notes[0]


def test_a_large_share_leaves_a_question_to_train_on(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", questions(10))
    assert len(tasks.load(TaskSpec(train=path, held_out=0.99), 0).train) == 1


def test_of_many_tests_the_first_count_each_time(tmp_path: Path) -> None:
    """Fault: tests were drawn with a salted hash, other ones in every process."""
    tests = [f"assert f({n}) == {n}" for n in range(60)]
    path = write(tmp_path / "t.jsonl", [{"question": "f?", "tests": tests}])
    (question,) = tasks.load(TaskSpec(train=path, test=path), 0, training=False).test
    assert question.tests == tests[:50]


def test_bytes_are_no_answer(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a", "b"], "answer": [b"7", b"8"]})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(InputError, match="row 1, 2 has values of another form"):
        tasks.load(TaskSpec(train=str(tmp_path / "b.parquet")), 0)


def test_a_number_with_a_power_is_a_gold_answer_that_replies_can_match(tmp_path: Path) -> None:
    stored = [1e20, 1e-7, "1.5E3", 2.50, "x"]
    path = write(tmp_path / "t.jsonl", [{"question": f"{a}?", "answer": a} for a in stored])
    found = tasks.load(TaskSpec(train="x", test=path), 0, False)
    golds = [question.gold for question in found.test]
    assert golds == ["100000000000000000000", "0.0000001", "1500", "2.5", "x"]


def test_a_json_file_may_hold_one_list(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([*questions(3), "no row"], indent=1))
    found = tasks.load(TaskSpec(train="x", test=str(path)), 0, False)
    assert len(found.test) == 3 and "row 4 is not a JSON object" in found.notes[0]


def test_a_missing_column_is_named_with_those_there_and_the_key_that_maps_them(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "t.jsonl", [{"query": "q", "response": "1"}])
    with pytest.raises(InputError, match=r"columns: query, response; see task\.columns"):
        tasks.load(TaskSpec(train=path), 0)


def test_answers_that_no_reply_will_match_are_counted(tmp_path: Path) -> None:
    rows: list[Any] = [
        *questions(3),
        {"question": "Why?", "answer": "Because the sum of them grows"},
        {"question": "Which?", "answer": "['a', 'b']"},
        {"question": "Where?", "answer": "{'a': 1}"},
        {"question": "Formula?", "answer": "\\frac{1}{2} \\text{ of the whole}"},
    ]
    found = tasks.load(TaskSpec(train="x", test=write(tmp_path / "t.jsonl", rows)), 0, False)
    assert "3 of 7 answers" in found.notes[0] and "Because the sum" in found.notes[0]


def test_a_limit_reads_no_further_than_it_needs(tmp_path: Path) -> None:
    """The tenth row is no row: whoever reads it says so."""
    path = write(tmp_path / "t.jsonl", [*questions(9), "no row"])
    assert tasks.load(TaskSpec(train="x", test=path, limit=9), 0, False).notes == []
    held_out = tasks.load(TaskSpec(train=path, limit=4), 0)
    assert (len(held_out.train), len(held_out.test), len(held_out.notes)) == (4, 1, 1)


def test_of_a_very_long_file_some_rows_are_taken_by_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST", 20)
    many = questions(200)
    taken = []
    for order in (many, many[::-1]):
        data = tasks.load(TaskSpec(train=write(tmp_path / "t.jsonl", order)), 0)
        assert "20 of 200 rows, chosen by hash; task.limit=N takes the first N" in data.notes[0]
        taken.append({question.text for question in (*data.train, *data.test)})
    assert taken[0] == taken[1] and len(taken[0]) == 20
    assert taken[0] != {row["question"] for row in many[:20]}
    assert (
        len(tasks.load(TaskSpec(train=write(tmp_path / "t.jsonl", many), limit=90), 0).train) == 90
    )


def test_only_the_rows_that_are_taken_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a million rows cost a minute and their memory."""
    monkeypatch.setattr(rows, "MOST", 20)
    path = write(tmp_path / "t.jsonl", questions(200))
    parsed: list[str] = []
    monkeypatch.setattr(rows.json, "loads", lambda line: parsed.append(line) or {})
    with pytest.raises(InputError, match="no usable row"):
        tasks.load(TaskSpec(train=path), 0)
    assert len(parsed) == 20


def test_validate_opens_the_data_and_names_columns_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"query": "q", "response": "1"}])
    done = mxa("validate", "gsm8k", "--set", f"task={path}")
    assert_refused(done, f"{path} has no usable row: row 1 has no 'question'")
    assert "its columns: query, response; see task.columns" in done.stderr
    named = f"{{train: {path}, columns: {{question: query, answer: response}}}}"
    assert mxa("validate", "gsm8k", "--set", f"task={named}").returncode == 0


def test_a_stored_recipe_names_its_files_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "t.jsonl", questions(5))
    monkeypatch.chdir(tmp_path)
    assert recipe_file.load("gsm8k", ["task=t.jsonl"]).task.name == f"{tmp_path}/t.jsonl"
    with pytest.raises(InputError, match="reads no file; give task=FILE"):
        recipe_file.load("arithmetic", ["task.train=t.jsonl"])
