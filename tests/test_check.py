import pytest

from mxa_lite.mas.check import check
from mxa_lite.texts.answers import MAX_SCRIPT
from mxa_lite.tree import Outcome

NODES = 'a = Agent("a", "p")\nb = Agent("b", "p")\n'


@pytest.mark.parametrize(
    ("script", "pattern"),
    [
        ("answer(a(question))", "single"),
        ('Workflow("w").add_node(a).run(question)', "single"),
        ('answer(Ensemble("v", [a] * 5)(question))', "vote"),
        ('answer(Ensemble("v", [a, b], consensus_agent=b)(question))', "vote"),
        ('answer(Ensemble("v", [a, b], "consensus", b)(question))', "judge"),
        ('answer(EnsembleNode("v", agents=[a, b], strategy="consensus")(question))', "judge"),
        ('answer(Reflection("r", a, b, num_iterations=1)(question))', "reflect"),
        ('answer(Debate("d", [a, b])(question))', "debate"),
        ('answer(Debate("d", [a, b], b, 3)(question))', "debate"),
        ('answer(Router("r", {"x": a}, lambda c: "x")(question))', "router"),
        ('Workflow("w").add_node(a).add_node(b).run(question)', "chain"),
        ("answer(b(a(question)))", "chain"),
        ('answer(Pipeline("steps", a, 3)(question))', "pipeline"),
        ('answer(Map("parts", a, b)(question))', "map"),
        ('answer(Pipeline("steps", Ensemble("v", [a] * 3), 3)(question))', "mixed"),
        ("r = a.ask(sentences(question)[0])\nanswer(b.ask(question, r))", "chain"),
        ("for s in sentences(question):\n    r = a.ask(s)\nanswer(r)", "other"),
        ("w = Workflow()\nw.add_nodes([a, b])\nw.run(question)", "chain"),
        ('w = Workflow()\nw.add_node(Ensemble("e", [a] * 3))\nw.add_node(b)\nw.run(0)', "mixed"),
        ('Ensemble("e", [Reflection("r", a)] * 2)(question)', "mixed"),
        ("AgentGraph().add_node(a).run(question)", "mixed"),
        ("r = [a(question) for _ in range(4)]", "other"),
        ("for i in range(3):\n    a(question)\n    b(question)", "other"),
        ("for i in range(3):\n    a(question)\n    break", "other"),
        ("if question:\n    a(question)", "single"),
        ("if __name__ == '__main__':\n    a(question)", "single"),
        ("if question:\n    a = Ensemble('e', [b] * 40)\na(question)", "vote"),
        ("for i in range(5):\n    b(question)\n    b = len", "other"),
        ('Workflow("w", [a, b])(question)', "chain"),
        ("Workflow([a, b])(question)", "chain"),
        ('answer(Vote("v", [a, b])(question))', "vote"),
        ("class Helper(Agent):\n    pass\nanswer(a(question))", "single"),
        ("import mas\nanswer(mas.Agent('x', 'p')(question))", "single"),
    ],
)
def test_the_pattern_is_read_from_the_script(script, pattern):
    found = check(NODES + script)
    assert (found.outcome, found.error, found.pattern) == (None, None, pattern)


@pytest.mark.parametrize("line", ["class Agent:", "def Workflow():", "class EnsembleNode(Node):"])
def test_a_script_that_redefines_a_node_is_refused_by_its_name(line):
    found = check(f"{line}\n    pass\nanswer(a(question))")
    assert found.outcome is Outcome.REJECTED
    assert "redefines" in found.error and line.split()[1].split("(")[0].rstrip(":") in found.error


def test_a_script_without_nodes_has_no_pattern():
    assert check("answer(5)").pattern == "other"


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
        "try:\n    pass\nexcept ImportError:\n    import numpy",
        "try:\n    import numpy\nfinally:\n    pass",
    ],
)
def test_unknown_imports_are_refused_by_name(line):
    found = check(line)
    assert found.outcome is Outcome.REJECTED and found.error.startswith("unknown import ")
    number = max(n for n, text in enumerate(line.split("\n"), 1) if "import " in text)
    assert found.error.endswith(f", line {number}")


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
        "try:\n    import numpy\nexcept ImportError:\n    numpy = None",
    ],
)
def test_the_standard_library_and_the_language_are_known(line):
    assert check(line).outcome is None


def test_names_of_own_nodes_can_be_imported():
    assert check("from mas import Twice", names={"Twice"}).outcome is None
    assert check("from mas import Twice").outcome is Outcome.REJECTED


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
    found = check(source)
    assert found.outcome is Outcome.SYNTAX_ERROR and found.error


def test_a_huge_script_is_refused_unread():
    assert check("#" * (MAX_SCRIPT + 1)).outcome is Outcome.REJECTED


def test_odd_escapes_print_no_warning(recwarn):
    assert check(r"x = '\d'").outcome is None and not recwarn.list
