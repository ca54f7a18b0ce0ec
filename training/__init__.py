"""Training in torch: the agent, the algorithms, rollouts and the trainer."""
