"""Credit on numbers worked by hand (paper, eq. 4 to 7 and 10); eps is below the tolerance."""

import math

import pytest

from mxa_lite.credit.advantage import GroupStats, assign, group_advantages, mean
from mxa_lite.credit.reward import format_score, paid_correct, reward_of
from mxa_lite.recipe.keys import Credit
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree

BOXED = "<delivery>so it is \\boxed{7}</delivery>"
PLAIN = Credit(format_weight=0.0)
QUESTION = Question("q", "3+4?", "t", gold="7")


def call(reply="\\boxed{7}", temperature=1.0):
    return Call("a", "0", 0, [], reply=reply, temperature=temperature)


def execution(correct, calls=1, outcome=Outcome.OK):
    return Execution(outcome, "7", [call() for _ in range(calls)], correct=correct)


def tree(*designs):
    """Designs are lists of executions; an Outcome is a script that the check refused."""
    made = [
        Design(call(), outcome=d) if isinstance(d, Outcome) else Design(call(), executions=d)
        for d in designs
    ]
    return Tree(QUESTION, made)


def near(values):
    return pytest.approx(values, abs=1e-4)


def advantages(design):
    return [[c.advantage for c in e.calls] for e in design.executions]


def test_group_advantages_use_the_sample_deviation():
    """1, 0, 0, 0: mean 1/4; sum of squares 9/16 + 3/16 = 3/4, / 3 = 1/4, std 1/2: 1.5 and -0.5."""
    assert group_advantages([1, 0, 0, 0]) == near([1.5, -0.5, -0.5, -0.5])


def test_eps_is_added_to_the_deviation():
    """2e-6, 0: mean 1e-6, std = sqrt(2) * 1e-6; 1e-6 / (2.4142e-6) = 0.41421."""
    assert group_advantages([2e-6, 0]) == near([0.41421, -0.41421])


@pytest.mark.parametrize("rewards", [[1.4] * 12, [0.1] * 3, [0.0] * 4, [1.4], []])
def test_equal_rewards_give_exactly_zero(rewards):
    assert group_advantages(rewards) == [0.0] * len(rewards)


def test_the_same_rewards_in_another_order_are_equal():
    """0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in floating point; their means must not."""
    assert group_advantages([mean([0.1, 0.2, 0.3]), mean([0.3, 0.2, 0.1])]) == [0.0, 0.0]


def test_designer_advantages_are_equations_4_and_5():
    """Means of (1, 0), (1, 1), (0, 0) are 1/2, 1, 0: mean 1/2, std 1/2, so 0, 1, -1."""
    t = tree(
        [execution(1), execution(0)], [execution(1), execution(1)], [execution(0), execution(0)]
    )
    assign(t, PLAIN)
    assert [d.reward for d in t.designs] == [0.5, 1.0, 0.0]
    assert [d.call.advantage for d in t.designs] == near([0.0, 1.0, -1.0])


def test_executor_group_is_every_call_of_the_question():
    """Eq. 6 and 7. Design 1: R = 1 with 3 calls, R = 0 with 1 call; design 2: R = 0 with 2 calls,
    R = 1 with 2 calls. 8 calls, 5 of them 1: mean 5/8; squares 5 * 9/64 + 3 * 25/64 = 120/64,
    / 7 = 0.267857, std 0.517549; (3/8) / std = 0.72457, (-5/8) / std = -1.20761."""
    t = tree([execution(1, 3), execution(0, 1)], [execution(0, 2), execution(1, 2)])
    assert assign(t, PLAIN) == GroupStats(1, 1, 1, 0, 0)
    assert advantages(t.designs[0]) == [near([0.72457] * 3), near([-1.20761])]
    assert advantages(t.designs[1]) == [near([-1.20761] * 2), near([0.72457] * 2)]
    assert {c.weight for d in t.designs for e in d.executions for c in e.calls} == {1.0}


def test_design_grouping_compares_within_one_design_only():
    """Design 1, rewards per call 1 1 1 0: mean 3/4, std 1/2: 0.5 and -1.5. Design 2 all 0: 0."""
    t = tree([execution(1, 3), execution(0, 1)], [execution(0, 2), execution(0, 2)])
    stats = assign(t, Credit(format_weight=0.0, executor_group="design"))
    assert advantages(t.designs[0]) == [near([0.5] * 3), near([-1.5])]
    assert advantages(t.designs[1]) == [[0.0, 0.0], [0.0, 0.0]]
    assert stats == GroupStats(1, 0, 2, 1, 0)


def test_execution_unit_counts_each_execution_once():
    """Executions R = 1 (3 calls), 0 (1), 0 (2): mean 1/3; squares 4/9 + 2/9 = 2/3, / 2 = 1/3,
    std 0.57735: 1.1547 and -0.57735; the weights of a call are 1/3, 1, 1/2."""
    t = tree([execution(1, 3), execution(0, 1)], [execution(0, 2)])
    assign(t, Credit(format_weight=0.0, executor_unit="execution"))
    assert advantages(t.designs[0]) == [near([1.1547] * 3), near([-0.57735])]
    assert advantages(t.designs[1]) == [near([-0.57735] * 2)]
    weights = [[c.weight for c in e.calls] for d in t.designs for e in d.executions]
    assert weights == [near([1 / 3] * 3), [1.0], [0.5, 0.5]]


def test_execution_unit_leaves_out_executions_without_calls():
    """R = 1 and 0 with a call each: mean 1/2, std 1/s, so 1/s and -1/s; the empty one is no one."""
    empty = Execution(Outcome.CRASHED)
    t = tree([execution(1), execution(0), empty])
    assign(t, Credit(format_weight=0.0, executor_unit="execution"))
    half = 1 / math.sqrt(2)
    assert advantages(t.designs[0]) == [near([half]), near([-half]), []]
    assert t.designs[0].reward == near(1 / 3)


def test_a_refused_script_counts_as_n_zeros():
    """Means 1, 0 (refused): mean 1/2, std 1/s, so 1/s and -1/s; it adds nothing to the executor."""
    t = tree([execution(1), execution(1)], Outcome.SYNTAX_ERROR)
    stats = assign(t, PLAIN)
    assert [d.call.advantage for d in t.designs] == near([1 / math.sqrt(2), -1 / math.sqrt(2)])
    assert advantages(t.designs[0]) == [[0.0], [0.0]]
    assert (stats.executor_groups, stats.executor_equal) == (1, 1)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
def test_every_other_outcome_earns_nothing_and_its_calls_stay(outcome):
    """R = 0 and 1.2 (format 1/2): the failed call has advantage -1/s."""
    t = tree([execution(1, outcome=outcome), execution(1)])
    assign(t, Credit())
    assert [e.reward for e in t.designs[0].executions] == near([0.0, 1.2])
    assert advantages(t.designs[0])[0] == near([-1 / math.sqrt(2)])


def test_reward_is_equation_10():
    """correct 1, boxed answer, 1 of 2 replies delivers: format (1 + 1/2) / 2; R = 1 + 0.4 * 3/4."""
    e = Execution(Outcome.OK, "7", [call("no block"), call(BOXED)], correct=1.0)
    e.format = format_score(e, "math")
    assert e.format == 0.75
    assert reward_of(e, QUESTION, Credit()) == near(1.3)
    e.correct = 0.0
    assert reward_of(e, QUESTION, Credit()) == near(0.3)


def test_format_can_be_paid_with_a_correct_answer_only():
    """Format 3/4 as above: 1.3 when correct; a wrong answer's form earns nothing."""
    e = Execution(Outcome.OK, "7", [call("no block"), call(BOXED)], correct=1.0)
    e.format = format_score(e, "math")
    only_correct = Credit(format_when="correct")
    assert reward_of(e, QUESTION, only_correct) == near(1.3)
    e.correct = 0.0
    assert reward_of(e, QUESTION, only_correct) == 0.0


def test_format_reads_the_replies_not_the_script():
    e = Execution(Outcome.OK, "7", [call("it is 7")], stdout=BOXED, correct=1.0)
    assert format_score(e, "math") == 0.0


def test_a_tool_request_owes_no_delivery():
    """One delivery among one message: (1 + 1) / 2."""
    e = Execution(Outcome.OK, "7", [call("<tool_call>{}</tool_call>"), call(BOXED)])
    assert format_score(e, "math") == 1.0


def test_format_of_a_code_answer_is_its_solution_block():
    program = "print(1)"
    reply = f"<delivery>done</delivery>\n<solution>\n{program}\n</solution>"
    e = Execution(Outcome.OK, program, [call(reply)], correct=1.0)
    assert format_score(e, "code") == 1.0
    assert paid_correct(e, "code") == 1.0
    e.answer = "print(1) # edited by the script"
    assert paid_correct(e, "code") == 0.0


def test_one_letter_is_an_answer_in_form():
    """Fault: a correct answer "A" was taken for a placeholder and lost its format reward."""
    e = Execution(Outcome.OK, "A", [call("<delivery>A</delivery> \\boxed{A}")], correct=1.0)
    assert format_score(e, "math") == 1.0


def test_questions_are_groups_of_their_own_also_with_one_execution_each():
    """Fault: with one execution a design, groups mixed eight questions. 1, 0 and 1, 1."""
    mixed, equal = tree([execution(1)], [execution(0)]), tree([execution(1)], [execution(1)])
    assert assign(mixed, PLAIN) + assign(equal, PLAIN) == GroupStats(2, 1, 2, 1, 0)
    half = 1 / math.sqrt(2)
    assert [advantages(d) for d in mixed.designs] == [[near([half])], [near([-half])]]
    assert [advantages(d) for d in equal.designs] == [[[0.0]], [[0.0]]]


def test_a_script_that_answers_by_itself_is_not_paid_for_it():
    e = Execution(Outcome.OK, "7", [call("\\boxed{8}")], correct=1.0)
    assert paid_correct(e, "math", "reply") == 0.0
    assert paid_correct(e, "math", "any") == 1.0


def test_replies_are_compared_as_values():
    e = Execution(Outcome.OK, "1/2", [call("\\boxed{0.5}")], correct=1.0)
    assert paid_correct(e, "math") == 1.0


def test_calls_at_temperature_zero_are_no_members():
    """Trained calls 1 and 0: 1/s and -1/s; the greedy third call (R = 1) changes nothing."""
    one = execution(1)
    one.calls.append(call(temperature=0.0))
    t = tree([one, execution(0)])
    stats = assign(t, PLAIN)
    half = 1 / math.sqrt(2)
    assert advantages(t.designs[0]) == [near([half, 0.0]), near([-half])]
    assert one.calls[1].weight == 0.0
    assert stats.greedy_calls == 1


def test_all_equal_is_zero_and_counted():
    t = tree([execution(1, 3), execution(1)], [execution(1, 2), execution(1, 6)])
    assert assign(t, Credit()) == GroupStats(1, 1, 1, 1, 0)
    assert {c.advantage for d in t.designs for e in d.executions for c in e.calls} == {0.0}
    assert {d.call.advantage for d in t.designs} == {0.0}


def test_stats_add_up():
    assert GroupStats(1, 0, 2, 1, 3) + GroupStats(1, 1, 1, 0, 0) == GroupStats(2, 1, 3, 1, 3)
