"""What an agent is made of, in plain values, so that a checkpoint can be loaded without running code."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import Node


@dataclass(frozen=True)
class AgentConfig:
    """Sizes of the agent."""

    nodes: tuple[Node, ...] = (Node("state", 32),)
    """Latent graph, parents before children; nodes without children predict the observation."""
    acting_node: str = "state"
    """The node that the policy reads."""
    hidden: int = 64
    """Width of every hidden layer."""
    default_steps: int = 4
    """Refinement steps that a deployment uses unless told otherwise."""
    max_steps: int = 16
    """Largest number of refinement steps."""
