"""A node, for scripts to use: `Longest("pick", [a, b])(question)` is the longest reply."""

from mas import WorkflowNode


class Longest(WorkflowNode):
    def __init__(self, name, agents):
        self.name, self.agents = name, agents

    def process(self, context):
        return max((agent(context.copy()) for agent in self.agents), key=len)
