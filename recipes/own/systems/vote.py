from mas import Agent, Ensemble

solver = Agent("solver", "Work step by step.")
answer(Ensemble("vote", [solver] * 3)(question))
