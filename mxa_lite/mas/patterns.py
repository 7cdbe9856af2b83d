"""Fixed, hand-written systems, one or more per pattern: what a designer has to beat."""

_AGENT = 'a = Agent("solver", "Work step by step.")\n'
_CRITIC = 'c = Agent("critic", "Look for a mistake.")\n'
_JUDGE = 'j = Agent("judge", "Check each answer.")\n'
SYSTEMS = {
    "single": _AGENT + "answer(a(question))",
    "vote": _AGENT + 'answer(Ensemble("vote", [a] * 3)(question))',
    "vote_4": _AGENT + 'answer(Ensemble("vote", [a] * 4)(question))',
    "judge": _AGENT + _JUDGE + 'answer(Ensemble("panel", [a, a], "consensus", j)(question))',
    "judge_3": _AGENT + _JUDGE + 'answer(Ensemble("panel", [a] * 3, "consensus", j)(question))',
    "reflect": _AGENT + _CRITIC + 'answer(Reflection("r", a, c, num_iterations=1)(question))',
    "debate": _AGENT + 'answer(Debate("debate", [a, a])(question))',
    "debate_1": _AGENT + 'answer(Debate("debate", [a, a], num_rounds=1)(question))',
    "chain": _AGENT + 'answer(Workflow("chain").add_node(a).add_node(a).run(question))',
    "chain_3": _AGENT + 'answer(Workflow("chain").add_nodes([a, a, a]).run(question))',
    "pipeline_2": _AGENT + 'answer(Pipeline("steps", a, 2)(question))',
    "pipeline": _AGENT + 'answer(Pipeline("steps", a, 3)(question))',
    "pipeline_4": _AGENT + 'answer(Pipeline("steps", a, 4)(question))',
    "map": _AGENT + 'answer(Map("parts", a)(question))',
}
# Calls of each; of `map` on a question with two parts, of `pipeline` at most.
CALLS = {
    **{"single": 1, "vote": 3, "vote_4": 4, "judge": 3, "judge_3": 4, "reflect": 3, "debate": 5},
    **{"debate_1": 3, "chain": 2, "chain_3": 3, "pipeline_2": 2, "pipeline": 3, "pipeline_4": 4},
    "map": 3,
}

# A system that reads which kind of the task `stories` a question is: what adapting can reach.
ROUTER = (
    _AGENT
    + """\
if "\\n" in question:
    answer(Map("parts", a)(question))
elif len(sentences(question)) > 6:
    answer(Pipeline("steps", a, 4)(question))
else:
    answer(Ensemble("vote", [a] * 4)(question))"""
)


def within(budget: int) -> dict[str, str]:
    """The systems of at most `budget` calls: name -> script."""
    return {name: script for name, script in SYSTEMS.items() if CALLS[name] <= budget}
