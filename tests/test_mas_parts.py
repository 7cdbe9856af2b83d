"""Scripts that divide a question: what each call is shown, and how it is drawn."""

from __future__ import annotations

import pytest
from fake_client import run

from mxa_lite.mas.parts import sentences
from mxa_lite.texts import prompts

AGENT = 'a = Agent("solver", "Work.")\n'
LONG = "Tom has 3.5 pens. He buys 2! Then he sells 1. How many pens?"
LINES = "Tom has 3 pens.\n\nAnn has 4 pens. She loses 1.\nHow many together?"


def box(value):
    return f"first\n<delivery>\\boxed{{{value}}}</delivery>"


def test_a_text_is_divided_at_the_ends_of_sentences_and_lines():
    assert sentences(LONG) == ["Tom has 3.5 pens.", "He buys 2!", "Then he sells 1.", LONG[-14:]]
    assert sentences(" one\n\ntwo. ") == ["one", "two."]


def test_a_part_is_asked_without_the_question_and_after_what_was_delivered():
    client = run(
        AGENT + 'r = a.ask("Tom has 3.")\nanswer(a.ask("He buys 2.", r))', solver=[box(3), box(5)]
    )
    assert [call.user for call in client.calls] == [
        "Tom has 3.\nSolve this part only.",
        "[solver] \\boxed{3}\nHe buys 2.\nSolve this part only.",
    ]
    assert client.answers == [box(5)]
    assert [node["parents"] for node in client.nodes] == [[], ["0"]]


@pytest.mark.parametrize(
    ("calls", "portions"),
    [
        (1, [LONG]),
        (2, ["Tom has 3.5 pens. He buys 2!", "Then he sells 1. How many pens?"]),
        (3, ["Tom has 3.5 pens. He buys 2!", "Then he sells 1.", "How many pens?"]),
        (9, ["Tom has 3.5 pens.", "He buys 2!", "Then he sells 1.", "How many pens?"]),
    ],
)
def test_a_pipeline_reads_whole_sentences_in_even_portions(calls, portions):
    script = AGENT + f'answer(Pipeline("steps", a, {calls})(question))'
    client = run(script, question=LONG, solver=[box(n) for n in range(1, len(portions) + 1)])
    shown = [[], *([("solver", f"\\boxed{{{n}}}")] for n in range(1, len(portions)))]
    wanted = [prompts.part(text, given) for text, given in zip(portions, shown, strict=True)]
    assert [call.user for call in client.calls] == wanted
    assert client.answers == [box(len(portions))]


def test_a_pipeline_is_drawn_as_a_chain_and_takes_any_node():
    script = AGENT + 'answer(Pipeline("steps", Ensemble("v", [a, a]), 2)(question))'
    client = run(script, question=LONG, solver=box(1))
    parents = {node["path"]: node["parents"] for node in client.nodes}
    assert parents == {"0": [], "0.0": [], "0.0.0": [], "0.0.1": [], **parents}
    assert parents["0.1"] == parents["0.1.0"] == ["0.0"]
    assert [call.agent for call in client.calls] == ["solver"] * 4


def test_a_pipeline_without_calls_says_so():
    with pytest.raises(ValueError, match="pipeline steps needs at least 1 call, not 0"):
        run(AGENT + 'Pipeline("steps", a, 0)', solver="")


def test_a_map_solves_each_line_alone_and_joins_what_was_delivered():
    script = AGENT + 'b = Agent("other", "Join.")\nanswer(Map("parts", a, b)(question))'
    replies = {"0.0": box(3), "0.1": box(4)}
    client = run(script, question=LINES, solver=lambda c: replies[c.path], other=box(7))
    assert [client.at(path).user for path in ("0.0", "0.1")] == [
        prompts.part("Tom has 3 pens.", []),
        prompts.part("Ann has 4 pens. She loses 1.", []),
    ]
    delivered = [("solver", "\\boxed{3}"), ("solver", "\\boxed{4}")]
    assert client.at("0.2").user == prompts.join(LINES, delivered)
    assert client.answers == [box(7)]
    assert {n["path"]: n["parents"] for n in client.nodes}["0.2"] == ["0.0", "0.1"]


def test_a_map_of_one_line_asks_it_once_and_its_agent_joins():
    client = run(AGENT + 'answer(Map("parts", a)(question))', question=LONG, solver=box(2))
    assert [call.user for call in client.calls] == [
        prompts.part(LONG, []),
        prompts.join(LONG, [("solver", "\\boxed{2}")]),
    ]


def test_a_map_whose_part_fails_names_it():
    with pytest.raises(RuntimeError, match="a part of parts failed: OSError: gone"):
        run(AGENT + 'Map("parts", a)(question)', question=LINES, solver=OSError("gone"))
