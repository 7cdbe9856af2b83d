"""Tasks: every built-in loader on its own format, row errors, held-out questions, leakage."""

import base64
import csv
import json
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from mxa_lite.errors import InputError
from mxa_lite.recipe.keys import TaskSpec
from mxa_lite.tasks import arithmetic, sources
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks.grade import Grader
from mxa_lite.tasks.rows import question_id


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def questions(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(start, start + count)]


# One row in each data set's own format, and an answer that is right.
FORMATS = [json.loads(line) for line in (Path(__file__).parent / "task_formats.jsonl").open()]


@pytest.fixture(scope="module")
def grader() -> Any:
    with Grader() as shared:
        yield shared


@pytest.mark.parametrize("made", FORMATS, ids=[made["task"] for made in FORMATS])
def test_a_built_in_task_reads_its_own_format_and_pays_a_right_answer_only(
    tmp_path: Path, grader: Grader, made: dict[str, Any]
) -> None:
    path = write(tmp_path / "rows.jsonl", [made["row"]])
    (question,) = tasks.load(TaskSpec(name=made["task"], test=path), 0, training=False).test
    assert question.task == made["task"]
    assert grader.grade(question, made["answer"]).correct == 1
    assert grader.grade(question, "def double(x): return 5").correct == 0


@pytest.mark.parametrize("made", [m for m in FORMATS if "problem" not in m["row"]])
def test_a_file_of_a_known_shape_needs_no_name(tmp_path: Path, made: dict[str, Any]) -> None:
    path = write(tmp_path / "rows.jsonl", [made["row"]])
    named = tasks.load(TaskSpec(name=made["task"], test=path), 0, training=False).test[0]
    (question,) = tasks.load(TaskSpec(train=path, test=path), 0, training=False).test
    assert (question.text, question.tests) == (named.text, named.tests)


def test_every_built_in_task_has_a_format_test_a_citation_and_a_place() -> None:
    assert {made["task"] for made in FORMATS} == set(sources.SOURCES)
    for source in sources.SOURCES.values():
        assert source.cite and (source.train or source.test)


def test_a_missing_file_and_an_unknown_task_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        tasks.load(TaskSpec(name=str(tmp_path / "none.jsonl")), 0)
    with pytest.raises(InputError, match="one of: arithmetic, stories, sums, gsm8k"):
        tasks.load(TaskSpec(name="gsm9k"), 0)


def test_broken_code_tests_leave_the_row_out(tmp_path: Path) -> None:
    row = {"text": "Do.", "test_list": ["assert f(1) == 1"]}
    bad = [
        {"text": "A", "test_list": t} for t in ([], ["assert f( =="], [3], [{"input": "1"}], None)
    ]
    found = tasks.load(
        TaskSpec(name="mbpp", test=write(tmp_path / "m.jsonl", [row, *bad])), 0, False
    )
    assert len(found.test) == 1
    assert "5 of 6 rows" in found.notes[0]


def test_csv_and_parquet_rows_with_columns_of_their_own(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with open(tmp_path / "q.csv", "w", newline="") as file:
        csv.writer(file).writerows([["frage", "antwort"], ["Two\nlines?", "2"], ["Drei?", "3"]])
    table = pyarrow.Table.from_pylist([{"frage": "Two\nlines?", "antwort": 2}])
    pyarrow.parquet.write_table(table, tmp_path / "q.parquet")
    columns = {"question": "frage", "answer": "antwort"}
    both = TaskSpec(
        train=str(tmp_path / "q.csv"), test=str(tmp_path / "q.parquet"), columns=columns
    )
    found = tasks.load(both, 0)
    assert [(q.text, q.gold) for q in found.train] == [("Drei?", "3")]
    assert [(q.text, q.gold) for q in found.test] == [("Two\nlines?", "2")]
    assert "1 training questions also stand elsewhere" in found.notes[0]


def test_code_rows_of_a_file_of_ones_own_are_known_by_their_tests(tmp_path: Path) -> None:
    rows = [
        {"question": "Add.", "tests": ["assert add(1, 2) == 3"]},
        {"question": "Add lines.", "tests": [{"input": "1", "output": "1"}]},
    ]
    found = tasks.load(
        TaskSpec(test=write(tmp_path / "c.jsonl", rows), name=None, train="x"), 0, False
    )
    assert [question.kind for question in found.test] == ["code", "code"]


def test_the_prompt_of_a_code_row_names_the_function_or_asks_for_a_program(tmp_path: Path) -> None:
    asserts, pairs = (
        ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
        [{"input": "", "output": "1"}],
    )
    rows = [
        {"question": "Add.", "tests": asserts},
        {"question": "Write add(a, b).", "tests": asserts},
        {"question": "Add them.", "test_list": asserts},
        {"prompt": "Add two.", "test_imports": ["import math"], "test_list": asserts},
        {"question": "Print one.", "tests": pairs},
        {"question": "Print the input.", "tests": pairs},
    ]
    path = write(tmp_path / "c.jsonl", rows)
    found = tasks.load(TaskSpec(train="x", test=path), 0, False).test
    example = "\nExample: assert add(1, 2) == 3"
    assert [question.text for question in found] == [
        "Add." + example,
        "Write add(a, b).",
        "Add them." + example,
        "Add two." + example,
        "Print one.\nWrite a program that reads standard input and prints the result.",
        "Print the input.",
    ]
    assert found[3].meta == {"setup": "import math"}


def test_one_text_is_one_question_whatever_its_example(tmp_path: Path) -> None:
    rows = [
        {"text": "Add.", "test_list": [f"assert {name}(1, 2) == 3"]} for name in ("add", "plus")
    ]
    other = {"text": "Subtract.", "test_list": ["assert minus(3, 2) == 1"]}
    train = write(tmp_path / "train.jsonl", [rows[0], other])
    found = tasks.load(TaskSpec(train=train, test=write(tmp_path / "t.jsonl", rows[1:])), 0)
    assert [question.text.split(".")[0] for question in found.train] == ["Subtract"]


def test_results_that_came_as_json_may_be_tuples(tmp_path: Path, grader: Grader) -> None:
    packed = json.dumps({"fn_name": "pair", "inputs": [[1, 2]], "outputs": [[[1, [2]]]]})
    row = {"question": "Pair.", "input_output": packed, "starter_code": "def pair(a, b):"}
    path = write(tmp_path / "a.jsonl", [row])
    (question,) = tasks.load(TaskSpec(name="apps", test=path), 0, False).test
    right = ("(a, [b])", "[a, [b]]", "[a, (b,)]")
    wrong = ("(b, [a])", "[a, b]", "[a, {b}]", "{a: [b]}")
    for answer, verdict in [*((one, 1) for one in right), *((one, 0) for one in wrong)]:
        assert grader.grade(question, f"def pair(a, b): return {answer}").correct == verdict


def test_a_code_task_without_tests_is_not_taken_for_math(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", questions(3))
    with pytest.raises(InputError, match="no usable row: row 1, 2, 3 has no 'tests'"):
        tasks.load(TaskSpec(train=path, kind="code"), 0)


def test_no_training_question_left_says_where_they_went(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", questions(1))
    with pytest.raises(InputError, match=r"no training questions .*1 of 1 questions held out"):
        tasks.load(TaskSpec(train=path), 0)


def test_a_question_with_options_is_multiple_choice(tmp_path: Path) -> None:
    row = {"question": "Which? (A) 1 (B) 2", "answer": "B"}
    (question,) = tasks.load(
        TaskSpec(train="x", test=write(tmp_path / "c.jsonl", [row])), 0, False
    ).test
    assert question.meta == {"choices": True}


def test_the_id_of_a_question_is_a_hash_of_its_text() -> None:
    assert question_id("What  is 1 + 1?\n") == question_id("what is 1 + 1?") == "99f829c3d56f0593"


def test_train_and_test_never_share_a_question(tmp_path: Path) -> None:
    train, test = (
        questions(10),
        [*questions(3, start=8), {"question": "what IS  0 + 1?", "answer": 1}],
    )
    spec = TaskSpec(
        name="gsm8k",
        train=write(tmp_path / "train.jsonl", train),
        test=write(tmp_path / "test.jsonl", test),
    )
    found = tasks.load(spec, 0)
    assert len(found.train) == 7 and len(found.test) == 4
    assert not {q.id for q in found.train} & {q.id for q in found.test}


def test_a_mix_draws_by_weight_and_keeps_test_questions_of_one_out_of_the_others(
    tmp_path: Path,
) -> None:
    a = write(tmp_path / "a.jsonl", questions(10))
    b = write(tmp_path / "b.jsonl", questions(25, start=5))
    only_test = write(tmp_path / "t.jsonl", questions(2, start=100))
    none = write(tmp_path / "n.jsonl", questions(2, start=8))
    mix = [
        TaskSpec(name="gsm8k", train=a, test=none),
        TaskSpec(name="gsm8k", train=b, test=none, weight=3),
        TaskSpec(name="gsm8k", train=a, test=only_test, weight=0),
    ]
    found = tasks.load(TaskSpec(mix=mix), 0)
    assert len(found.train) == 8 + 20 and len(found.test) == 4
    assert sum(found.weights) == pytest.approx(1)
    assert sum(found.weights[:8]) == pytest.approx(0.25)


def test_a_limit_bounds_both_sides_and_comes_down_from_the_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", questions(40))
    assert len(tasks.load(TaskSpec(train=path, limit=3), 0).train) == 3
    assert len(tasks.load(TaskSpec(mix=[TaskSpec(train=path)], limit=2), 0).test) <= 2


def test_a_task_without_training_questions_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"problem": "Which?", "answer": "033"}])
    with pytest.raises(InputError, match=r"aime24.*no training questions; give task\.train"):
        tasks.load(TaskSpec(name="aime24", test=path), 0)


def test_without_a_network_the_message_names_the_file_and_the_flag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"codeparrot/apps train\.jsonl .*--set task\.train=FILE"):
        tasks.load(TaskSpec(name="apps"), 0)
    with pytest.raises(InputError, match=r"openai/gsm8k main train .*--set task\.test=FILE"):
        tasks.load(TaskSpec(name="gsm8k"), 0)


def test_hub_splits_are_asked_for_by_repository_config_and_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked = []

    def pretend(*place: Any, **options: Any) -> list[dict[str, Any]]:
        asked.append((*place, *options.values()))
        return questions(3, start=10 * len(asked))

    monkeypatch.setattr(datasets, "load_dataset", pretend)
    assert len(tasks.load(TaskSpec(name="gsm8k"), 0).train) == 3
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran code",)


@pytest.mark.parametrize("made", [Bomb(), b"bytes", 3, ["list"]])
def test_packed_tests_that_are_not_a_string_are_refused_and_run_nothing(
    made: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = base64.b64encode(zlib.compress(pickle.dumps(made))).decode()
    with pytest.raises(pickle.UnpicklingError):
        sources.unpack(text)
    assert capsys.readouterr().out == ""


def test_arithmetic_is_right_short_and_the_same_for_a_seed() -> None:
    for seed in range(300):
        text, gold, worked = arithmetic.question(random.Random(seed), 2 + seed % 3)
        assert (text, gold, worked) == arithmetic.question(random.Random(seed), 2 + seed % 3)
        assert len(text.split()) <= 35
        value = text.split()[2]
        for line in worked:
            left, _, value_after = line.partition("=")
            assert left.startswith(value) and eval(left) == int(value_after)
            assert 0 <= int(value_after) <= arithmetic.LARGEST
            value = value_after
        assert value == gold


def test_arithmetic_tests_are_the_same_for_every_seed_and_never_trained_on() -> None:
    one, two = (tasks.load(TaskSpec(name="arithmetic", limit=200), seed) for seed in (1, 2))
    tune = tasks.load(TaskSpec(name="arithmetic:tune", limit=200), 1)
    assert one.test == two.test and one.train != two.train
    assert not {q.id for q in one.test} & {q.id for q in tune.test}
    assert {arithmetic.place(q.text) for q in one.test + tune.test} == {"test", "tune"}
    assert {arithmetic.place(q.text) for q in one.train + two.train + tune.train} == {"train"}


GYM = """
class Data:
    def __init__(self, name, seed, size):
        if name == "unknown":
            raise ValueError("Dataset 'unknown' not registered")
        self.seed, self.size = seed, size
    def __len__(self):
        return self.size
    def __getitem__(self, i):
        if i >= self.size:
            raise IndexError(i)
        gold = None if i % 2 else str(i)
        return {"question": f"Number {self.seed} {i}?", "answer": gold, "metadata": {"i": i}}
    def score_answer(self, answer, entry):
        if answer == "evil":
            open("written", "w").write("x")
        return {str(entry["metadata"]["i"]): 1.0, "-2": 1.0}.get(answer, 0.3)
def create_dataset(name, seed, size):
    return Data(name, seed, size)
"""


def test_reasoning_gym_is_graded_by_its_scorer_at_full_marks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reasoning_gym.py").write_text(GYM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = tasks.load(TaskSpec(name="reasoning_gym:count", limit=4), 7)
    third, fourth = found.train[2:]
    assert (third.gold, fourth.gold) == ("2", None)
    with Grader() as grader:
        assert grader.grade(fourth, "\\boxed{3}").correct == 1
        assert grader.grade(fourth, "4").correct == 0  # the scorer would pay 0.3
        assert grader.grade(third, "2").correct == 1
        assert grader.grade(third, "-2").correct == 0  # numbers are compared here
        assert grader.grade(fourth, "evil").correct == 0
    assert not (tmp_path / "written").exists()
    with pytest.raises(InputError, match="not registered"):
        tasks.load(TaskSpec(name="reasoning_gym:unknown"), 0)


def test_results_of_apps_stand_in_lists_of_one_or_do_not(tmp_path: Path, grader: Grader) -> None:
    def row(text: str, outputs: list[Any]) -> dict[str, Any]:
        packed = {"fn_name": "f", "inputs": [[3], [2]], "outputs": outputs}
        return {"question": text, "starter_code": "", "input_output": json.dumps(packed)}

    rows = [row("Wrapped?", [[6], [4]]), row("Lists?", [[0, 1], [0]])]
    path = write(tmp_path / "apps.jsonl", rows)
    wrapped, plain = tasks.load(TaskSpec(name="apps", test=path), 0, training=False).test
    assert grader.grade(wrapped, "def f(n): return 2 * n").correct == 1
    assert grader.grade(plain, "def f(n): return [*range(n - 1)]").correct == 1
    assert grader.grade(plain, "def f(n): return [n - 1]").correct == 0


def test_what_leetcode_imports_is_there(tmp_path: Path, grader: Grader) -> None:
    row = {
        "question_content": "Most frequent?",
        "starter_code": "class Solution:\n    def most(self, xs: List[int]) -> int:",
        "metadata": json.dumps({"func_name": "most"}),
        "public_test_cases": json.dumps([{"input": "[3, 1, 3]", "output": "3"}]),
        "private_test_cases": "[]",
    }
    path = write(tmp_path / "lcb.jsonl", [row])
    (question,) = tasks.load(TaskSpec(name="livecodebench", test=path), 0, training=False).test
    body = "return max(Counter(xs).items(), key=lambda p: (p[1], -math.inf))[0]"
    answer = f"class Solution:\n    def most(self, xs: List[int]) -> int:\n        {body}"
    assert grader.grade(question, answer).correct == 1
