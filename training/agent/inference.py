"""Methods of inference behind one interface: a prior for the tick, refinement steps, and what to carry on.

    hold           z is the last reading of every channel
    amortized      z is the encoder's answer
    gradient       z <- z - eta_k dF/dz
    diagonal       z <- z - eta_k dF/dz / diag(Pi + J' L J)
    gauss_newton   z <- z - eta_k H^-1 dF/dz,  H = E' Pi E + J' L J,  Pi = (A P A' + Q)^-1,  P = H^-1 carried on

Curvatures are taken once a tick, at the prior mean, as an extended Kalman filter takes them, so that a further step
costs a gradient and a product; the gradient is that at z, so the steps still end where F is least. In a linear-Gaussian
model one gauss_newton step from anywhere is the Kalman filter's update. The others keep a learned constant Pi, which
makes them constant-gain filters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.errors import GanglionError
from training.agent import blocks
from training.agent.config import InferenceConfig
from training.agent.model import GenerativeModel, Prior

_INITIAL_VARIANCE = 1.0  # of every latent before the first tick, normalised units
_LARGEST_VARIANCE = 10.0  # what the carried covariance saturates at when nothing is seen


def constant_step(largest: Tensor, smallest: Tensor) -> Tensor:
    """The best constant step 2 / (L + mu) for curvatures between mu and L."""
    return 2.0 / (largest + smallest)


def chebyshev_steps(largest: Tensor, smallest: Tensor, count: int) -> Tensor:
    """The `count` steps 2 / [(L + mu) + (L - mu) cos((2k - 1) pi / 2K)] that together contract an error the most."""
    angles = torch.arange(1, 2 * count, 2, dtype=largest.dtype) * (math.pi / (2 * count))
    return 2.0 / ((largest + smallest) + (largest - smallest) * angles.cos())


class StepSizes(nn.Module):
    """Positive step sizes eta_k, learned freely or through the bounds mu < L of the curvature."""

    def __init__(self, schedule: str, max_steps: int, largest: float, smallest: float) -> None:
        super().__init__()
        self.schedule, self.max_steps = schedule, max_steps
        start = torch.tensor([math.log(smallest), math.log(largest - smallest)])
        if schedule == "learned":
            start = constant_step(torch.tensor(largest), torch.tensor(smallest)).log().expand(max_steps).clone()
        self.raw = nn.Parameter(start)

    def table(self) -> Tensor:
        """eta_k of step k (column) when K (row) are made in all, (max_steps + 1, max_steps)."""
        if self.schedule == "learned":
            return self.raw.exp().expand(self.max_steps + 1, -1)
        smallest = self.raw[0].exp()
        largest = smallest + self.raw[1].exp()
        if self.schedule == "constant":
            return constant_step(largest, smallest).expand(self.max_steps + 1, self.max_steps)
        rows = [nn.functional.pad(chebyshev_steps(largest, smallest, k), (0, self.max_steps - k), value=0.0)
                for k in range(1, self.max_steps + 1)]  # fmt: skip
        return torch.stack((torch.zeros_like(rows[0]), *rows))

    def forward(self, k: Tensor, steps: Tensor) -> Tensor:
        """eta_k (B, 1) of step k () when `steps` (B,) are made in all."""
        return self.table().flatten().index_select(0, steps * self.max_steps + k).unsqueeze(-1)


@dataclass
class Prediction:
    """What a tick expects before it looks."""

    prior: Prior
    mean: Tensor
    """Prior mean (B, Z)."""
    x: Tensor
    """Predicted channels (B, D)."""
    variance: Tensor
    """Variance of the prediction of every channel, noise included, (D,) or (B, D)."""
    jacobian: Tensor | None = None
    """J (B, D, Z) at the prior mean, where the method has needed it."""
    errors: Tensor | None = None
    """E (B, Z, Z) there, likewise; None also for the identity of a graph without edges."""


class Method(nn.Module):
    """The amortized method, and what others share: a constant learned prior precision."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__()
        self.steps: StepSizes | None = None
        channels = model.observation.order.numel()
        self.predictive_log_variance = nn.Parameter(torch.full((channels,), -2.0))

    def initial(self, model: GenerativeModel) -> dict[str, Tensor]:
        """Carried tensors before the first tick, with a batch of one."""
        return {"z": torch.zeros(1, model.size)}

    def foresee(
        self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What a tick that sees nothing carries on, and the `x` and `variance` of its prediction."""
        mean = model.prior_mean(model.drive(state["z"], action))
        return {"z": mean}, model.predict(mean), self.predictive_log_variance.exp()

    def predict(self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor) -> Prediction:
        """Expectation of the tick from what is carried and the last action (B, A)."""
        prior, mean = constant_prior(model, state["z"], action)
        return Prediction(prior, mean, model.predict(mean), self.predictive_log_variance.exp())

    def gain(self, model: GenerativeModel, prediction: Prediction, precision_x: Tensor) -> Tensor:
        """What multiplies the gradient in every step besides eta_k: (B, n, b, b), (B, Z) or (1,)."""
        return torch.ones(1, dtype=precision_x.dtype)

    def step(
        self,
        model: GenerativeModel,
        z: Tensor,
        x: Tensor,
        precision_x: Tensor,
        prior: Prior,
        gain: Tensor,
        eta: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One refinement step from z (B, Z), eta (B, 1) or () of a whole one.

        Also gives g'd / 2 (B,), nats, of its gradient g and displacement d: by so much F falls in a whole Newton step
        of a quadratic F.
        """
        gradient = model.free_energy_gradient(z, x, precision_x, prior)
        change = self.change(gradient, gain, eta)
        fall = 0.5 * (gradient.unsqueeze(-2) @ change.unsqueeze(-1))
        return z - change, fall.squeeze(-1).squeeze(-1)

    def change(self, gradient: Tensor, gain: Tensor, eta: Tensor | None) -> Tensor:
        """What a step takes away, (B, Z), for dF/dz (B, Z). The amortized method makes no steps."""
        return torch.zeros_like(gradient)

    def carry(self, z: Tensor, gain: Tensor) -> dict[str, Tensor]:
        """What the next tick gets."""
        return {"z": z}


class Hold(Method):
    """Every channel's last reading, as in a policy without a model, which here only tells how surprising it is."""

    def __init__(self, model: GenerativeModel) -> None:
        super().__init__(model)
        if not bool(model.anchored.all()) or model.observation.free is not None:
            raise GanglionError("the inference method 'hold' needs one latent for every channel, tied to it")

    def foresee(
        self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        z = state["z"]
        return {"z": z}, model.predict(z), self.predictive_log_variance.exp()

    def predict(self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor) -> Prediction:
        prior, _ = constant_prior(model, state["z"], action)
        held, x, variance = self.foresee(model, state, action)
        return Prediction(prior, held["z"], x, variance)


class Gradient(Method):
    """Plain steps."""

    def __init__(self, model: GenerativeModel, config: InferenceConfig) -> None:
        super().__init__(model)
        self.steps = StepSizes(config.schedule, config.max_steps, largest=200.0, smallest=20.0)

    def change(self, gradient: Tensor, gain: Tensor, eta: Tensor | None) -> Tensor:
        return (gain if eta is None else gain * eta) * gradient


class Diagonal(Gradient):
    """Steps divided by the diagonal of the curvature at the prior mean."""

    def __init__(self, model: GenerativeModel, config: InferenceConfig) -> None:
        super().__init__(model, config)
        self.steps = StepSizes(config.schedule, config.max_steps, largest=3.0, smallest=1.0)

    def gain(self, model: GenerativeModel, prediction: Prediction, precision_x: Tensor) -> Tensor:
        _, jacobian = model.predict_with_jacobian(prediction.mean)
        curvature = (jacobian.square() * precision_x.unsqueeze(-1)).sum(-2)
        errors = model.latent_error_jacobian(prediction.mean)
        own = prediction.prior.precision
        if errors is not None:
            own = (errors.square() * own.unsqueeze(-1)).sum(-2)
        return 1.0 / (curvature + own)


@dataclass
class _Forecast:
    """A Gaussian belief moved on by one tick."""

    drive: Tensor
    mean: Tensor
    covariance: blocks.Covariance
    """Of the error e."""
    errors: Tensor | None
    """E (B, Z, Z); None for the identity."""
    tree: Tensor | None
    """E^-1, which makes z of the error; None likewise."""
    x: Tensor
    jacobian: Tensor
    variance: Tensor
    log_precision_x: Tensor


class GaussNewton(Method):
    """Steps divided by the whole curvature, in blocks if there are many latents; carries the covariance."""

    def __init__(self, model: GenerativeModel, config: InferenceConfig) -> None:
        super().__init__(model)
        del self.predictive_log_variance
        self.size = config.covariance_block or model.size
        if model.size % self.size:
            raise GanglionError(
                f"covariance_block is {self.size}, expected a divisor of the {model.size} latents, or 0 for all"
            )
        self.count = model.size // self.size
        if self.count > 1:  # blocks overlook each other, so a whole step may go too far
            self.steps = StepSizes(config.schedule, config.max_steps, largest=2.0, smallest=1.0)

    def initial(self, model: GenerativeModel) -> dict[str, Tensor]:
        return super().initial(model) | {"P": _INITIAL_VARIANCE * blocks.identity(self.count, self.size)}

    def foresee(
        self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        f = self._forecast(model, state, action)
        covariance = f.covariance.matrix if f.tree is None else blocks.congruence(f.tree, f.covariance.matrix)
        return {"z": f.mean, "P": covariance}, f.x, f.variance

    def predict(self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor) -> Prediction:
        f = self._forecast(model, state, action)
        prior = Prior(f.drive, f.covariance.inverse(), -f.covariance.log_det(), f.log_precision_x)
        return Prediction(prior, f.mean, f.x, f.variance, f.jacobian, f.errors)

    def _forecast(self, model: GenerativeModel, state: dict[str, Tensor], action: Tensor) -> _Forecast:
        drive, hidden = model.transition(state["z"], action)
        mean = model.prior_mean(drive)
        log_precision, log_precision_x = _log_precisions(model, state["z"], action, mean)
        noise = (-log_precision).exp().unflatten(-1, (self.count, self.size)).unsqueeze(-1)
        moved = blocks.congruence(model.transition_jacobian(hidden), state["P"])
        covariance = blocks.Covariance.saturated(
            moved + noise * torch.eye(self.size, dtype=noise.dtype), _LARGEST_VARIANCE
        )
        x, jacobian = model.predict_with_jacobian(mean)
        errors = model.latent_error_jacobian(mean)
        tree = None if errors is None else blocks.inverse(errors)
        sensed = jacobian if tree is None else jacobian @ tree
        variance = blocks.spread(sensed, covariance.matrix) + (-log_precision_x).exp()
        return _Forecast(drive, mean, covariance, errors, tree, x, jacobian, variance, log_precision_x)

    def gain(self, model: GenerativeModel, prediction: Prediction, precision_x: Tensor) -> Tensor:
        """P = (E' Pi E + J' L J)^-1 (B, n, b, b), the covariance of the posterior."""
        assert prediction.jacobian is not None
        own = prediction.prior.precision
        if prediction.errors is not None:
            own = blocks.congruence(prediction.errors.mT, own)
        return blocks.symmetric_inverse(own + blocks.gram(prediction.jacobian, precision_x, self.count))

    def change(self, gradient: Tensor, gain: Tensor, eta: Tensor | None) -> Tensor:
        whole = blocks.times(gain, gradient)
        return whole if eta is None else eta * whole

    def carry(self, z: Tensor, gain: Tensor) -> dict[str, Tensor]:
        return {"z": z, "P": gain}


def constant_prior(model: GenerativeModel, z_previous: Tensor, action: Tensor) -> tuple[Prior, Tensor]:
    """p(z_t | z_{t-1}, a_{t-1}) with the model's own diagonal precisions, and its mean (B, Z)."""
    drive = model.drive(z_previous, action)
    mean = model.prior_mean(drive)
    log_precision, log_precision_x = _log_precisions(model, z_previous, action, mean)
    return Prior(drive, log_precision.exp(), log_precision.sum(-1), log_precision_x), mean


def _log_precisions(model: GenerativeModel, z_previous: Tensor, action: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Log-precisions of the temporal prior, (Z,) or (B, Z), and of the channels, (D,) or (B, D)."""
    latent = model.latent_log_precision(torch.cat((z_previous, action), -1))
    return latent, model.observation_log_precision(mean)


def make_method(model: GenerativeModel, config: InferenceConfig) -> Method:
    """The method that `config` names. Raises GanglionError if its covariance blocks do not fit."""
    if config.method == "hold":
        return Hold(model)
    if config.method == "gradient":
        return Gradient(model, config)
    if config.method == "diagonal":
        return Diagonal(model, config)
    return GaussNewton(model, config) if config.method == "gauss_newton" else Method(model)
