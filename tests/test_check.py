import pytest

from mxa_lite.mas.check import MAX_CHARS, check
from mxa_lite.tree import Outcome

NODES = 'a = Agent("a", "p")\nb = Agent("b", "p")\n'


@pytest.mark.parametrize(
    ("script", "pattern", "calls"),
    [
        ("answer(a(question))", "single", 1),
        ('Workflow("w").add_node(a).run(question)', "single", 1),
        ('answer(Ensemble("v", [a] * 5)(question))', "vote", 5),
        ('answer(Ensemble("v", [a, b], consensus_agent=b)(question))', "vote", 2),
        ('answer(Ensemble("v", [a, b], "consensus", b)(question))', "judge", 3),
        ('answer(EnsembleNode("v", agents=[a, b], strategy="consensus")(question))', "judge", 2),
        ('answer(Reflection("r", a, b, num_iterations=1)(question))', "reflect", 1),
        ('answer(Debate("d", [a, b])(question))', "debate", 4),
        ('answer(Debate("d", [a, b], b, 3)(question))', "debate", 6),
        ('answer(Router("r", {"x": a}, lambda c: "x")(question))', "router", 0),
        ('Workflow("w").add_node(a).add_node(b).run(question)', "chain", 2),
        ("answer(b(a(question)))", "chain", 2),
        ("w = Workflow()\nw.add_nodes([a, b])\nw.run(question)", "chain", 2),
        ('w = Workflow()\nw.add_node(Ensemble("e", [a] * 3))\nw.add_node(b)\nw.run(0)', "mixed", 4),
        ('Ensemble("e", [Reflection("r", a)] * 2)(question)', "mixed", 2),
        ("AgentGraph().add_node(a).run(question)", "mixed", 0),
        ("r = [a(question) for _ in range(4)]", "other", 0),
        ("for i in range(3):\n    a(question)\n    b(question)", "other", 0),
        ("for i in range(3):\n    a(question)\n    break", "other", 0),
        ("if question:\n    a(question)", "single", 0),
        ("if __name__ == '__main__':\n    a(question)", "single", 1),
        ("if question:\n    a = Ensemble('e', [b] * 40)\na(question)", "vote", 0),
        ("for i in range(5):\n    b(question)\n    b = len", "other", 0),
        ("class Agent:\n    pass\nc = Agent()\nc(question)", "single", 0),
        ("import mas\nanswer(mas.Agent('x', 'p')(question))", "single", 1),
    ],
)
def test_pattern_and_calls_are_read_from_the_script(script, pattern, calls):
    found = check(NODES + script, 32)
    assert (found.outcome, found.error) == (None, None)
    assert (found.pattern, found.min_calls) == (pattern, calls)


def test_a_script_without_nodes_has_no_pattern():
    assert check("answer(5)", 32).pattern == "other"


@pytest.mark.parametrize(
    "script",
    [
        'Ensemble("v", [a] * 33)(question)',
        'Ensemble("v", [a] * 1000000000000)(question)',
        'Debate("d", [a, b], num_rounds=17)(question)',
    ],
)
def test_a_budget_that_the_script_must_exceed_is_refused(script):
    found = check(NODES + script, 32)
    assert found.outcome is Outcome.REJECTED and "allowed are 32" in found.error
    assert check(NODES + script, 2_000_000).outcome is None


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "import os, torch.nn",
        "from sklearn import svm",
        "from . import mas",
        "from workflow import TreeNode",
        "from workflow.search import Search",
        "from utils.environments import SearchEnvironment",
        "def f():\n    import requests",
    ],
)
def test_unknown_imports_are_refused_by_name(line):
    found = check(line, 32)
    assert found.outcome is Outcome.REJECTED and found.error.startswith("unknown import ")


@pytest.mark.parametrize(
    "line",
    [
        "import os, json, collections.abc",
        "from workflow import Workflow, AgentNode, EnsembleNode, DebateNode, ReflectionNode",
        "from workflow.nodes import AgentNode\nfrom workflow.core import Context, ToolRegistry",
        "from mas import *",
        "import workflow.nodes as nodes",
        "from utils.environments import MathEnvironment",
        "from utils.environments.math_env import MathEnvironment",
    ],
)
def test_the_standard_library_and_the_language_are_known(line):
    assert check(line, 32).outcome is None


@pytest.mark.parametrize(
    "source",
    [
        "answer(",
        "return 5",
        "x = '\0'",
        "\ud800",
        "-" * 60_000 + "1",
        "x = " + "1 + " * 15_000 + "1",
        "a" + ".b" * 30_000,
        "(" * 300,
        "1" * 5_000,
    ],
)
def test_what_does_not_parse_is_a_syntax_error_and_never_an_exception(source):
    found = check(source, 32)
    assert found.outcome is Outcome.SYNTAX_ERROR and found.error


def test_a_huge_script_is_refused_unread():
    assert check("#" * (MAX_CHARS + 1), 32).outcome is Outcome.REJECTED


def test_odd_escapes_print_no_warning(recwarn):
    assert check(r"x = '\d'", 32).outcome is None and not recwarn.list
