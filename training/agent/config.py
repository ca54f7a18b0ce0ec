"""What an agent is made of, in plain values, so that a checkpoint can be loaded without running code."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import REFINEMENT_METHODS, Node
from runtime.errors import GanglionError
from training.agent.gait import TrotConfig
from training.agent.networks import ACTIVATIONS
from training.ranges import Count, Finite, Natural, check_ranges

SCHEDULES = ("constant", "chebyshev", "learned")
HEADS = ("gaussian", "squashed", "deterministic", "categorical")


@dataclass(frozen=True)
class InferenceConfig:
    """How the belief of a tick is found."""

    method: str = "gauss_newton"
    """hold: the last reading of every channel, as in a policy without a model. amortized: the encoder alone. gradient:
    plain steps. diagonal: steps divided by the diagonal curvature. gauss_newton: steps divided by the whole curvature,
    with the posterior covariance carried from tick to tick."""
    schedule: str = "learned"
    """Step sizes of the methods gradient and diagonal, and of gauss_newton in blocks: constant, chebyshev, learned."""
    covariance_block: Natural = 0
    """Size of the diagonal blocks in which gauss_newton keeps the covariance; divides the number of latents, 0 is all
    of them. A tick costs about Z^2 times this."""
    default_steps: Natural = 1
    """Refinement steps that a deployment uses unless told otherwise."""
    max_steps: Natural = 8
    """Largest number of refinement steps."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.method not in REFINEMENT_METHODS:
            known = ", ".join(REFINEMENT_METHODS)
            raise GanglionError(f"there is no inference method '{self.method}'; expected one of {known}")
        if self.schedule not in SCHEDULES:
            raise GanglionError(f"there is no schedule '{self.schedule}'; expected one of {', '.join(SCHEDULES)}")
        if not 0 <= self.default_steps <= self.max_steps:
            raise GanglionError(f"default_steps is {self.default_steps}, expected 0 to max_steps = {self.max_steps}")


@dataclass(frozen=True)
class Motion:
    """Channel `position` changes by `change` times the channel `rate` in a tick, both normalised."""

    position: int
    rate: int
    change: float


@dataclass(frozen=True)
class AgentConfig:
    """Sizes of the agent and its way of inference."""

    nodes: tuple[Node, ...] = (Node("state", 32),)
    """Latent graph, parents before children; nodes without children predict the observation."""
    acting_node: str = "state"
    """The node that the policy reads."""
    tied: tuple[int, ...] = ()
    """Channel to which each leading latent of the observed nodes is tied, so that it has that channel's unit."""
    hidden: Count = 64
    """Width of every hidden layer."""
    activation: str = "elu"
    """Of the hidden layers of policy and critic: elu, relu or tanh."""
    precision_by_state: bool = False
    """Let the precisions depend on the last latent and action (temporal prior) and on the prior mean (channels)."""
    inference: InferenceConfig = InferenceConfig()
    """Method of inference."""
    kinematics: tuple[Motion, ...] = ()
    """How tied channels change each other, which is not learned; see `training.kinematics`."""
    head: str = "gaussian"
    """What the policy's answer means, which the algorithm chooses. gaussian: the mean of an unbounded action, its
    standard deviation learned beside. squashed: mean and standard deviation before a tanh. deterministic: an action
    before a tanh. categorical: a logit of every one of the task's choices."""
    choices: tuple[tuple[float, ...], ...] = ()
    """Normalised action (A,) of each choice, where the task has a discrete action."""
    initial_log_std: Finite = -0.5
    """Logarithm of a gaussian policy's standard deviation at the start of training."""
    gait: TrotConfig | None = None
    """Pattern generator whose action the policy corrects."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.head not in HEADS:
            raise GanglionError(f"there is no policy head '{self.head}'; expected one of {', '.join(HEADS)}")
        if self.activation not in ACTIVATIONS:
            raise GanglionError(f"there is no activation '{self.activation}'; expected one of {', '.join(ACTIVATIONS)}")
        if (self.head == "categorical") != bool(self.choices):
            raise GanglionError(f"a {self.head} head has {len(self.choices)} choices; a categorical one alone has some")
        if self.gait is not None and self.head != "gaussian":
            raise GanglionError(f"a gait is corrected by a gaussian policy alone, got a {self.head} one")
        loose = sorted({c for m in self.kinematics for c in (m.position, m.rate)} - {*self.tied})
        if loose:
            raise GanglionError(f"kinematics names the channels {loose}, expected tied ones: {sorted(self.tied)}")
