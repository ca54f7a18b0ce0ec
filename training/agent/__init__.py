"""The agent: generative model on a latent graph, one free energy, amortized and refined inference, and its heads."""
