"""The agent as one torch module: generative model, sensor belief, encoder, refinement, policy and value heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.contract import WITHOUT_STEPS
from training.agent.config import AgentConfig
from training.agent.distributions import Categorical, Distribution, Gaussian, SquashedGaussian
from training.agent.gait import FEATURES, Trot
from training.agent.inference import Hold, Prediction, make_method
from training.agent.model import GenerativeModel, Prior
from training.agent.networks import LastReading, SkipMLP, mlp
from training.agent.sensors import SensorBelief

_GUARD = (1.0, 0.5, 0.25, 0.0)  # multiples of the refinement's displacement; the one of least F is kept
_LOG_STD = (-5.0, 2.0)  # of a squashed policy
_FARTHEST = 1e3  # normalised units; steps that diverge must not overflow F, which the guard compares

State = dict[str, Tensor]
"""What is carried from tick to tick, by the names of the contract's states: z (B, Z), sensors (B, 4, D), and
P (B, n, b, b) where the method carries a covariance."""


def put_back(state: State, first: Tensor, initial: State) -> State:
    """`state` with the rows where first (B,) is one replaced by `initial`, of one row."""
    return {n: torch.where(first.reshape(-1, *[1] * (v.dim() - 1)) > 0, initial[n], v) for n, v in state.items()}


@dataclass
class Start:
    """What the refinement of one tick starts from."""

    z: Tensor
    """Amortized answer (B, Z)."""
    prior: Prior
    precision_x: Tensor
    """Precision of each channel, zero where it is not believed (B, D)."""
    gain: Tensor
    """Multiplies the gradient in every step, (B, n, b, b), (B, Z) or (1,)."""
    mask: Tensor
    """(B, D), one where the channel is believed after the checks."""
    innovation: Tensor
    """(x - prediction) in predicted standard deviations (B, D); zero where there is no reading."""
    verdict: Tensor
    """(B, D), see `training.agent.sensors`."""
    sensors: Tensor
    """Sensor belief to carry on (B, 5, D)."""
    gait: Tensor | None = None
    """State of the gait (B, S) before the tick, where there is one."""


@dataclass
class Belief:
    """What a tick inferred."""

    state: State
    """Carried to the next tick."""
    free_energy: Tensor
    """F (B,), nats."""
    prediction: Prediction
    start: Start
    steps: Tensor
    """Refinement steps made (B,)."""

    @property
    def z(self) -> Tensor:
        """(B, Z)."""
        return self.state["z"]


class Agent(nn.Module):
    """All tensors are normalised; x (B, D) must be finite also where the mask (B, D) is zero."""

    def __init__(self, config: AgentConfig, observation_size: int, action_size: int) -> None:
        super().__init__()
        self.config = config
        self.observation_size, self.action_size = observation_size, action_size
        self.model = GenerativeModel(
            config.nodes,
            observation_size,
            action_size,
            config.hidden,
            config.tied,
            config.precision_by_state,
            config.kinematics,
        )
        self.method = make_method(self.model, config.inference)
        self.sensors = SensorBelief(observation_size)
        size = self.model.size
        self.encoder = self._make_encoder()
        acting = self.model.slices[config.acting_node]
        self._predicts = config.acting_node in self.model.observed
        features = acting.stop - acting.start + self._predicts * (observation_size - len(config.tied))
        self.gait = None if config.gait is None else Trot(config.gait)
        rhythm = 0 if self.gait is None else FEATURES
        features += rhythm
        self.policy = mlp(features, config.hidden, self._answers(), 0.01, config.activation)
        self.critic = mlp(size + observation_size + rhythm, config.hidden, 1, activation=config.activation)
        self.log_std = nn.Parameter(torch.full((action_size,), config.initial_log_std))
        self.register_buffer("choices", torch.tensor(config.choices), persistent=False)

    choices: Tensor
    """Normalised action of each choice (M, A), empty where the action is continuous."""

    def _answers(self) -> int:
        """Outputs of the policy network."""
        if self.gait is not None:
            return self.gait.corrections
        return {"categorical": len(self.config.choices), "squashed": 2 * self.action_size}.get(
            self.config.head, self.action_size
        )

    def _make_encoder(self) -> SkipMLP | LastReading:
        """Of the features (B, 3 D + Z) that `start` makes."""
        channels, size = self.observation_size, self.model.size
        ties = torch.zeros(size, channels)
        ties[:, list(self.config.tied)] = self.model.observed_rows[: len(self.config.tied)].mT
        if isinstance(self.method, Hold):
            return LastReading(ties)
        encoder = SkipMLP(3 * channels + size, self.config.hidden, size)
        with torch.no_grad():  # half of each innovation corrects the latent that is tied to the channel
            encoder.linear.weight[:, -channels:] = 0.5 * ties
        return encoder

    def initial(self, batch: int = 1) -> State:
        """Carried state before the first tick."""
        one = self.method.initial(self.model) | {"sensors": self.sensors.initial()}
        if self.gait is not None:
            one["gait"] = self.gait.initial()
        return {name: value.to(self.log_std).repeat(batch, *[1] * (value.dim() - 1)) for name, value in one.items()}

    def restarted(self, state: State, first: Tensor) -> State:
        """`state` with the rows where first (B,) is one put back to before the first tick."""
        return put_back(state, first, self.initial())

    def start(
        self, x: Tensor, mask: Tensor, action: Tensor, state: State, fresh: Tensor | None = None
    ) -> tuple[Start, Prediction]:
        """Predict, check the sensors, amortize: z0 = prior mean + encoder(m x, m, prior mean, m (x - predicted x)).

        `fresh` (B, D) is one where a reading is new. Without it the sensors are not checked, as in training.
        """
        prediction = self.method.predict(self.model, state, action)
        surprise = mask * (x - prediction.x)
        innovation = surprise / prediction.variance.sqrt()
        verdict, sensors = torch.zeros_like(x), state["sensors"]
        if fresh is not None:
            noise = ((-prediction.prior.log_precision_x).exp() / prediction.variance).clamp(max=1.0)
            mask, verdict, sensors = self.sensors(x, mask, fresh, innovation, noise, sensors)
        features = torch.cat((mask * x, mask, prediction.mean, mask * surprise), -1)
        precision_x = mask * prediction.prior.log_precision_x.exp()
        gain = self.method.gain(self.model, prediction, precision_x)
        z = prediction.mean + self.encoder(features)
        gait = state.get("gait")
        return Start(z, prediction.prior, precision_x, gain, mask, innovation, verdict, sensors, gait), prediction

    def refine(self, z: Tensor, x: Tensor, start: Start, k: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Step k () of `steps` (B,) in all, from z (B, Z), and by how much it was expected to lower F (B,), nats."""
        eta = None if self.method.steps is None else self.method.steps(k, steps)
        stepped, fall = self.method.step(self.model, z, x, start.precision_x, start.prior, start.gain, eta)
        return stepped.clamp(-_FARTHEST, _FARTHEST), fall

    def finish(self, start: Start, z: Tensor, x: Tensor) -> tuple[State, Tensor]:
        """Guard the refined z so that F is not above its value at the amortized answer; the state to carry, and F."""
        rows = len(z)
        multiples = torch.tensor(_GUARD, dtype=z.dtype, device=z.device).unsqueeze(-1)
        if rows > 1:  # the candidates of a single row take the axis of the batch, so that all of them stay matrices
            multiples = multiples.unsqueeze(-1)
        candidates = start.z + multiples * (z - start.z)
        energies = self.model.free_energy(candidates, x, start.mask, start.prior).unsqueeze(-1)
        best = energies.argmin(0).flatten()
        if rows > 1:
            best = best * rows + torch.arange(rows, device=z.device)
        guarded = candidates.reshape(-1, z.shape[-1]).index_select(0, best)
        return self._carried(guarded, start.gain, start.sensors, start.gait), energies.amin(0).flatten()

    def _carried(self, z: Tensor, gain: Tensor, sensors: Tensor, gait: Tensor | None) -> State:
        carried = self.method.carry(z, gain) | {"sensors": sensors}
        if self.gait is not None and gait is not None:
            carried["gait"] = self.gait.advanced(gait, z)
        return carried

    def infer(
        self,
        x: Tensor,
        mask: Tensor,
        action: Tensor,
        state: State,
        steps: Tensor,
        fresh: Tensor | None = None,
        tolerance: Tensor | None = None,
    ) -> Belief:
        """One tick's belief with `steps` (B,) refinement steps, each row its own number.

        The last step of a row is the first one that was expected to lower F by no more than `tolerance` (B,), nats.
        """
        start, prediction = self.start(x, mask, action, state, fresh)
        z, used = start.z, torch.zeros_like(steps)
        goes_on = (steps > 0) & (self.config.inference.method not in WITHOUT_STEPS)
        for k in range(int(steps.max())):
            refined, fall = self.refine(z, x, start, torch.tensor(k), steps)
            z = torch.where(goes_on.unsqueeze(-1), refined, z)
            used = used + goes_on
            goes_on = goes_on & (steps > k + 1)
            if tolerance is not None:
                goes_on = goes_on & (fall > tolerance)
        carried, free_energy = self.finish(start, z, x)
        return Belief(carried, free_energy, prediction, start, used)

    def track(self, x: Tensor, mask: Tensor, action: Tensor, state: State, steps: Tensor) -> State:
        """What `infer` carries on, alone: where readings are held, no free energy is needed for it."""
        if not isinstance(self.method, Hold):
            return self.infer(x, mask, action, state, steps).state
        held, expected, _ = self.method.foresee(self.model, state, action)
        z = held["z"] + self.encoder(mask * (x - expected))
        return self._carried(z, z, state["sensors"], state.get("gait"))

    def features(self, z: Tensor) -> Tensor:
        """What the policy network reads (B, F) of a belief, but for a gait."""
        features = z[..., self.model.slices[self.config.acting_node]]
        return torch.cat((features, self.model.explain(z)), -1) if self._predicts else features

    def answer(self, z: Tensor, gait: Tensor | None = None) -> Tensor:
        """Output (B, O) of the policy network for the acting node and the channels that it explains.

        With a gait, the mean of its action in the state `gait` (B, S), corrected.
        """
        features = self.features(z)
        if self.gait is None:
            numbers: Tensor = self.policy(features)
            return numbers
        assert gait is not None
        correction = self.gait.even(self.policy, torch.cat((features, self.gait.features(gait)), -1))
        action: Tensor = self.gait(gait, z, correction)
        return action

    def act(self, z: Tensor, gait: Tensor | None = None) -> Tensor:
        """The normalised action (B, A) of a deployment: the mean, or the best choice."""
        answer = self.answer(z, gait)
        if self.config.head == "categorical":
            return self.command(answer.argmax(-1))
        if self.config.head == "gaussian":
            return answer
        return torch.tanh(answer[..., : self.action_size])

    def command(self, action: Tensor) -> Tensor:
        """The normalised action (B, A) of a sampled one: itself (B, A), or that of a choice (B,) int64."""
        return self.choices[action] if self.config.head == "categorical" else action

    def value(self, z: Tensor, x: Tensor, gait: Tensor | None = None) -> Tensor:
        """State value (B,); the critic is not deployed, so it also sees the unmasked observation x (B, D)."""
        rhythm = () if self.gait is None or gait is None else (self.gait.features(gait),)
        value: Tensor = self.critic(torch.cat((z, x, *rhythm), -1)).squeeze(-1)
        return value

    def distribution(self, z: Tensor, gait: Tensor | None = None) -> Distribution:
        """Policy at z (B, Z), and the state (B, S) of the gait. Of a deterministic one, with exp(log_std) as noise."""
        answer = self.answer(z, gait).to(z.dtype)
        if self.config.head == "categorical":
            return Categorical(answer)
        if self.config.head == "squashed":
            mean, log_std = answer.chunk(2, -1)
            return SquashedGaussian(Gaussian(mean, log_std.clamp(*_LOG_STD).exp()))
        mean = answer if self.config.head == "gaussian" else torch.tanh(answer)
        std = self.log_std.exp() if self.gait is None else self.gait.joint_unit * self.log_std.exp()
        return Gaussian(mean, std.expand_as(mean))
