"""A reward: the paper's, less a price for every call after the first."""


def reward(execution, question):
    paper = execution.correct + 0.4 * execution.format
    return paper - 0.05 * max(len(execution.calls) - 1, 0)
