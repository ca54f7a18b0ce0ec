"""Devices: which there are, and that what an agent learns from is all on its own, checked on the device meta."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from runtime.errors import GanglionError
from training import device as module
from training.checkpoint import build_agent
from training.device import find_device, on_device
from training.presets import preset
from training.returns import gae


@pytest.fixture
def there_is(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def pretend(*kinds: str) -> None:
        monkeypatch.setattr(module, "_KINDS", {k: lambda k=k: k in kinds for k in ("cuda", "mps", "cpu")})
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * ("cuda" in kinds))

    return pretend


def test_auto_is_a_gpu_where_there_is_one(there_is: Callable[..., None]) -> None:
    there_is("cpu", "mps", "cuda")
    assert find_device("auto").type == "cuda"
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert find_device("cpu").type == "cpu"
    there_is("cpu", "mps")
    assert find_device("auto").type == "mps"
    there_is("cpu")
    assert find_device("auto").type == "cpu"


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "gpu", "", "mps", "meta"])
def test_a_device_that_is_not_here(name: str, there_is: Callable[..., None]) -> None:
    there_is("cpu", "cuda")
    with pytest.raises(GanglionError, match=f"no device '{name}' on this machine; expected auto or one of cuda, cpu"):
        find_device(name)


@pytest.mark.parametrize("task", ["cartpole", "cartpole_push", "a1_walk"])
def test_the_losses_of_an_update_stay_on_the_device(task: str) -> None:
    """A tensor that were made on the CPU would not add up with one of meta, as with one of a GPU."""
    with pytest.raises(RuntimeError, match="device meta"):
        torch.zeros(2, device="meta") + torch.zeros(2)
    config = preset(task)
    ticks, rows = 4, 3
    agent = build_agent(config).to("meta")
    with on_device(torch.device("meta")):
        assert {v.device.type for v in agent.state_dict().values()} == {"meta"}
        x = torch.zeros(ticks, rows, agent.observation_size)
        state = agent.initial(rows)
        belief = agent.start(x[0], torch.ones_like(x[0]), torch.zeros(rows, agent.action_size), state)[0]
        distribution = agent.distribution(belief.z, belief.gait)
        action = distribution.sample()
        log_prob = distribution.log_prob(action)
        value = agent.value(belief.z, x[0], belief.gait).expand(ticks, rows)
        zero = torch.zeros(ticks, rows)
        advantage = gae(zero, value, value, zero, zero, config.gamma, 0.95)
        loss = -(log_prob * advantage[0]).mean() + (distribution.entropy() + value[0]).mean()
        loss.backward()
        results = [log_prob, advantage, loss, agent.command(action), agent.act(belief.z, belief.gait)]
        assert {v.device.type for v in results} == {"meta"}
