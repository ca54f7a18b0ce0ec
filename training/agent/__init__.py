"""The agent: generative model on a latent graph, one free energy, inference by encoder and refinement, and its heads."""
