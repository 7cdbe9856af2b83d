"""The best hand-written system, chosen on other questions than those it is scored on. No torch.

The best of many systems on the questions that chose it looks better than it is; so one half of the
questions chooses for the other, and the other way round, and every question counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mxa_lite.evidence.attempts import Attempt, kinds_of

Systems = Mapping[str, Sequence[Attempt]]  # name -> its attempts at the same questions


def best_fixed(systems: Systems) -> tuple[list[Attempt], str]:
    """Each question's attempts by the system that was best on the other half; the systems' names.

    Halves: every other question within a kind. Two names when the halves disagree. The first of
    equally good ones is taken.
    """
    first = next(iter(systems.values()))
    order = list(dict.fromkeys((a.kind, a.question) for a in first))
    order.sort(key=lambda key: key[0])  # stable: within a kind as they came
    halves = [{question for _, question in order[start::2]} for start in (0, 1)]
    attempts: list[Attempt] = []
    names = []
    for scored, choosing in (halves, halves[::-1]):
        system = max(systems, key=lambda name: _right(systems[name], choosing))
        names.append(system)
        attempts += [a for a in systems[system] if a.question in scored]
    return attempts, " / ".join(dict.fromkeys(names))


def best_by_kind(systems: Systems) -> tuple[list[Attempt], dict[str, str]]:
    """The same for the questions of each kind by themselves: what knowing the kind is worth.

    The second is kind -> names of its systems.
    """
    attempts: list[Attempt] = []
    names = {}
    for kind in kinds_of(next(iter(systems.values()))):
        of_kind = {name: [a for a in tries if a.kind == kind] for name, tries in systems.items()}
        chosen, names[kind] = best_fixed(of_kind)
        attempts += chosen
    return attempts, names


def _right(attempts: Sequence[Attempt], questions: set[str]) -> float:
    """Every system made equally many attempts, so that a sum compares as a mean does."""
    return sum(a.correct for a in attempts if a.question in questions)
