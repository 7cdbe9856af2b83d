# One agent solves, another looks for a mistake.
from mas import Agent, Reflection

solver = Agent("solver", "Work step by step.")
critic = Agent("critic", "Look for a mistake.")
answer(Reflection("check", solver, critic, num_iterations=1)(question))
