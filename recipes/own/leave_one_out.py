"""An advantage: how much better than the mean of the others in the group."""


def advantage(rewards):
    others = max(len(rewards) - 1, 1)
    return [reward - (sum(rewards) - reward) / others for reward in rewards]
