"""Math answers: every rule, the corpus, and golds changed in one place, of which none is paid."""

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxa_lite.errors import RunError
from mxa_lite.grading.compare import RULES, Rule, compare, copied
from mxa_lite.grading.worker import Worker
from mxa_lite.tasks.grade import Grader
from mxa_lite.tree import Question

CORPUS = [json.loads(line) for line in (Path(__file__).parent / "grader_corpus.jsonl").open()]
EXPRESSIONS = "mxa_lite.grading.expressions:holds"
SAME_ANYWAY = {("\\binom{10}{3}", "\\binom{10}{7}")}
SLOW = ["same", "(a+b+c+d+f+g)^{900}", "(g+f+d+c+b+a)^{900}+h^{900}-(h+1)^{900}"]


def math(gold: str, text: str = "?", choices: bool = False) -> Question:
    return Question("q", text, "math", "math", gold, meta={"choices": choices})


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as shared:
        yield shared


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_a_rule_pays_its_right_example_and_not_its_wrong_one(grader: Grader, rule: Rule) -> None:
    assert [
        grader.grade(math(gold), f"\\boxed{{{answer}}}").correct
        for gold, answer in (rule.right, rule.wrong)
    ] == [1, 0]


@pytest.mark.slow
def test_the_corpus_is_agreed_with_in_full(grader: Grader) -> None:
    assert len({(row["gold"], row["answer"]) for row in CORPUS}) >= 1000
    pairs = [(math(row["gold"], "?", row.get("choices", False)), row["answer"]) for row in CORPUS]
    verdicts = grader.grade_many(pairs)
    wrong = [
        (row["gold"], row["answer"])
        for row, verdict in zip(CORPUS, verdicts, strict=True)
        if verdict.correct != row["verdict"]
    ]
    assert wrong == []


def changed(gold: str) -> set[str]:
    """The gold with one digit, sign, exponent or part that is another."""
    changes = {f"2{gold}", f"{gold}+1"}
    for match in re.finditer(r"\d", gold):
        for digit in "123456789":
            changes.add(gold[: match.start()] + digit + gold[match.end() :])
    for match in re.finditer(r"(?<!\{)[+-]", gold):
        sign = "-" if match[0] == "+" else "+"
        changes.add(gold[: match.start()] + sign + gold[match.end() :])
    for match in re.finditer(r"\^\{?(\d)", gold):
        changes.add(gold[: match.start(1)] + str(int(match[1]) + 1) + gold[match.end(1) :])
    for match in re.finditer(r"\\(?:sqrt|frac|sin|cos|le|ge|cup)(?![a-z])|[<>\[]", gold):
        other = {"\\sqrt": "\\sqrt[3]", "\\sin": "\\cos", "\\cos": "\\sin", "\\le": "<",
                 "\\ge": ">", "<": ">", ">": "<", "[": "("}.get(match[0], "")  # fmt: skip
        changes.add(gold[: match.start()] + other + gold[match.end() :])
    if "," in gold:
        changes |= {gold.rpartition(",")[0], f"{gold},77"}
    return changes - {gold}


def changes() -> list[tuple[str, str]]:
    skipped = ("word", "letter", "choice", "slow", "big", "gsm8k")
    golds = {row["gold"] for row in CORPUS if row["form"] not in skipped}
    pairs = [(gold, change) for gold in sorted(golds) for change in sorted(changed(gold))]
    return [pair for pair in pairs if pair not in SAME_ANYWAY]


def paid(grader: Grader, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    verdicts = grader.grade_many([(math(gold), f"\\boxed{{{answer}}}") for gold, answer in pairs])
    return [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]


def test_of_a_sample_of_changed_golds_none_is_paid(grader: Grader) -> None:
    assert paid(grader, random.Random(0).sample(changes(), 300)) == []


@pytest.mark.slow
def test_of_all_changed_golds_none_is_paid(grader: Grader) -> None:
    assert len(changes()) >= 2000
    assert paid(grader, changes()) == []


@pytest.mark.parametrize(
    ("question", "gold", "copy"),
    [
        ("Factor $x^2+2x+1$.", "(x+1)^2", "x^2+2x+1"),
        ("Expand (x + 1)^2.", "x^2+2x+1", "(x+1)^2"),
        ("Simplify $\\sqrt{7+4\\sqrt{3}}$.", "2+\\sqrt{3}", "\\sqrt{7+4\\sqrt{3}}"),
        ("Simplify $\\frac{x^2-1}{x-1}$.", "x+1", "\\frac{x^2-1}{x-1}"),
    ],
)
def test_what_is_copied_from_the_question_is_no_answer(
    grader: Grader, question: str, gold: str, copy: str
) -> None:
    assert (
        grader.grade(math(gold, "?"), f"\\boxed{{{copy}}}").correct == 1
    )  # their values are equal
    assert grader.grade(math(gold, question), f"\\boxed{{{copy}}}").correct == 0
    assert grader.grade(math(gold, question), f"\\boxed{{{gold}}}").correct == 1
    assert copied(question, f"so \\boxed{{{copy}}}") and not copied(question, gold)


def test_a_right_answer_may_stand_in_the_question(grader: Grader) -> None:
    for question, gold, answer in [
        ("Which is larger, $\\sqrt{2}+1$ or 2?", "1+\\sqrt{2}", "\\sqrt{2}+1"),
        ("Tom has 18 dollars and spends none. How much is left?", "18", "18 dollars"),
        ("Is 5 - 3 or 5 more?", "5", "5"),
    ]:
        assert grader.grade(math(gold, question), f"\\boxed{{{answer}}}").correct == 1


@pytest.mark.parametrize("gold", ["7", "x+1", "\\{1,2\\}", "x=5", "[0,1)", "\\text{even}"])
def test_no_text_whatsoever_is_an_error(gold: str) -> None:
    rng = random.Random(gold)
    commands = r"\frac \sqrt \le \begin{pmatrix} \\ \end{pmatrix} \{ \} \in \pm \circ \infty \cup"
    signs = [*commands.split(" "), *"{}[](),;=<|_^1x&%.-/'$", " or "]
    for _ in range(200):
        answer = "".join(rng.choices(signs, k=rng.randint(1, 9)))
        compare(gold, f"\\boxed{{{answer}}}")
        compare(answer, gold)


def test_numbers_need_no_worker() -> None:
    claims = [compare(str(n), f"\\boxed{{{n}}}") for n in range(1000)]
    assert claims == [True] * 1000
    assert compare("12345", "\\boxed{12\\,346}") is False


def test_a_comparison_that_hangs_is_false_and_the_next_one_works() -> None:
    worker = Worker(EXPRESSIONS, 0.5)
    for _ in range(2):  # the second meets a worker that has just been replaced
        assert worker.ask({"claim": SLOW}) == 0
    assert worker.ask({"claim": ["same", "\\sqrt{8}", "2\\sqrt{2}"]}) == 1
    worker.close()


def test_a_worker_that_does_not_start_is_an_error_and_no_wrong_answer() -> None:
    with pytest.raises(RunError, match="does not start"):
        Worker("no_such_module:f", 1).ask({"claim": True})


def test_a_worker_works_under_a_lower_memory_limit() -> None:
    source = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        f"from mxa_lite.grading.worker import Worker\nworker = Worker({EXPRESSIONS!r}, 5)\n"
        "print(worker.ask({'claim': ['same', 'x', 'x']}))\nworker.close()"
    )
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "1.0\n"


def test_a_hanging_worker_ends_when_nobody_is_left_to_end_it() -> None:
    command = [sys.executable, "-m", "mxa_lite.grading.worker", EXPRESSIONS, "1"]
    request = json.dumps({"claim": SLOW}) + "\n"
    done = subprocess.run(command, input=request, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGPROF
