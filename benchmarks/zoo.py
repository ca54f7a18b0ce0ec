"""Tasks, settings and scores of the PyBullet benchmark of rl-baselines3-zoo, for our trainer.

Its tuned settings (hyperparams/ppo.yml and sac.yml) hold here, with these differences. Our networks have two equal
layers: 350 and 350 have as many weights as SAC's 400 and 300. Exploration is independent from tick to tick, not by
noise that depends on the state (gSDE), and PPO's begins with a standard deviation of 0.6: theirs, exp(-2) times the
length of the last layer's output, comes to about as much. Readings are not normalised; the environments bound them to
5. Rewards are times 1 - gamma, not divided by a running deviation. On Hopper SAC's step sizes fall to 0, as theirs do,
and so do PPO's, instead of its clip range. The plain agent holds the last reading and learns no model, so that only the
algorithm is compared.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.errors import GanglionError
from training.agent.config import InferenceConfig
from training.algorithms.ppo import PPOOptions
from training.algorithms.sac import SACOptions
from training.augment import NO_FAILURES
from training.config import TrainConfig
from training.presets import preset

PUBLISHED = {
    ("HalfCheetahBulletEnv-v0", "ppo"): 2925,
    ("HalfCheetahBulletEnv-v0", "sac"): 2792,
    ("HopperBulletEnv-v0", "ppo"): 2575,
    ("HopperBulletEnv-v0", "sac"): 2603,
}
"""Mean return of the zoo's benchmark.md, of one run each, by environment and algorithm."""
STEPS = {"ppo": 2_000_000, "sac": 1_000_000}
"""Environment steps of each of its runs."""
WIDTH = {"ppo": 256, "sac": 350}
"""Of both hidden layers."""


def settings(
    task: str, algo: str, seed: int = 0, steps: int | None = None, threads: int = 1, workers: int = 2
) -> TrainConfig:
    """The zoo's settings for a continuous task. Raises GanglionError for an algorithm that it is not about."""
    plain = _plain(task, algo, WIDTH, log_std=-0.5)
    plain = replace(plain, seed=seed, steps=steps or STEPS[algo], learning_threads=threads, workers=workers)
    if algo == "ppo":
        options = PPOOptions(
            learning_rate=3e-5, gae_lambda=0.9, clip=0.4, epochs=20, minibatches=64, target_kl=0.0, max_grad_norm=0.5,
            anneal="Hopper" in task, compile=True,
        )  # fmt: skip
        return replace(plain, gamma=0.99, num_envs=16, horizon=512, sequence=16, options=options)
    replay = SACOptions(
        learning_rate=7.3e-4, critic_learning_rate=7.3e-4, ent_coef=1.0, ent_coef_learning_rate=7.3e-4, tau=0.02,
        batch_size=256, gradient_steps=1.0, buffer_size=300_000, learning_starts=10_000, bf16=True, compile=True,
        anneal="Hopper" in task,
    )  # fmt: skip
    return replace(plain, gamma=0.98, num_envs=8, horizon=1, sequence=1, options=replay)


def library_settings(task: str, algo: str, seed: int = 0, threads: int = 1, workers: int = 2) -> TrainConfig:
    """The defaults of Stable-Baselines3 itself, of 16 environments for PPO and one for SAC; rollouts of 512 ticks.

    Raises GanglionError for an algorithm that they are not about.
    """
    plain = _plain(task, algo, {"ppo": 64, "sac": 256}, log_std=0.0)
    plain = replace(plain, seed=seed, steps=STEPS[algo], learning_threads=threads, gamma=0.99)
    if algo == "ppo":
        o = PPOOptions(learning_rate=3e-4, epochs=10, minibatches=128, target_kl=0.0, max_grad_norm=0.5, compile=True)
        agent = replace(plain.agent, activation="tanh")
        return replace(plain, agent=agent, num_envs=16, horizon=512, sequence=16, workers=workers, options=o)
    replay = SACOptions(
        learning_rate=3e-4, critic_learning_rate=3e-4, ent_coef=1.0, ent_coef_learning_rate=3e-4, tau=0.005,
        batch_size=256, gradient_steps=1.0, buffer_size=1_000_000, learning_starts=100, bf16=True, compile=True,
    )  # fmt: skip
    return replace(plain, num_envs=1, workers=1, horizon=1, sequence=1, options=replay)


def _plain(task: str, algo: str, width: dict[str, int], log_std: float) -> TrainConfig:
    """A policy on the readings as they are."""
    if algo not in STEPS:
        raise GanglionError(f"there are settings of {' and '.join(STEPS)} here, not of '{algo}'")
    config = preset(task, algo)
    hold = InferenceConfig("hold")
    agent = replace(config.agent, hidden=width[algo], activation="relu", inference=hold, initial_log_std=log_std)
    return replace(
        config, agent=agent, model_epochs=0, model_only_steps=0, overshoot=0, refine=(0,), augmentation=NO_FAILURES,
        device="cpu",
    )  # fmt: skip
