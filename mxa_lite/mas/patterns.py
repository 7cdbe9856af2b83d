"""Fixed, hand-written systems, one per pattern: what a designer has to beat."""

_AGENT = 'a = Agent("solver", "Work step by step.")\n'
_CRITIC = 'c = Agent("critic", "Look for a mistake.")\n'
_JUDGE = 'j = Agent("judge", "Check each answer.")\n'
SYSTEMS = {
    "single": _AGENT + "answer(a(question))",
    "vote": _AGENT + 'answer(Ensemble("vote", [a] * 3)(question))',
    "judge": _AGENT + _JUDGE + 'answer(Ensemble("panel", [a, a], "consensus", j)(question))',
    "reflect": _AGENT + _CRITIC + 'answer(Reflection("r", a, c, num_iterations=1)(question))',
    "debate": _AGENT + 'answer(Debate("debate", [a, a])(question))',
    "chain": _AGENT + 'answer(Workflow("chain").add_node(a).add_node(a).run(question))',
}
