"""The choice among providers that this machine does not have, and the real session on the one that it has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnxruntime as ort
import pytest

from runtime.bundle import Bundle
from runtime.controller import Controller
from runtime.errors import GanglionError
from runtime.providers import SMALL_BYTES, Started, plans, start

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU_BUILD = [TENSORRT, CUDA, "AzureExecutionProvider", CPU]
CPU_BUILD = ["AzureExecutionProvider", CPU]


@dataclass
class FakeSession:
    """As onnxruntime answers on a machine where only `works` can be loaded."""

    asked: list[str]
    works: tuple[str, ...]

    def get_providers(self) -> list[str]:
        return [p for p in self.asked if p in self.works]


def started(wanted: str, works: tuple[str, ...], size: int = SMALL_BYTES) -> Started[FakeSession]:
    return start(plans(wanted, GPU_BUILD, size), lambda asked: FakeSession(asked, works))


@pytest.mark.parametrize(
    ("wanted", "available", "size", "expected"),
    [
        ("auto", GPU_BUILD, SMALL_BYTES - 1, [[CPU]]),
        ("auto", GPU_BUILD, SMALL_BYTES, [[TENSORRT, CUDA, CPU], [CUDA, CPU], [CPU]]),
        ("auto", CPU_BUILD, SMALL_BYTES, [[CPU]]),
        ("auto", [CUDA, CPU], SMALL_BYTES, [[CUDA, CPU], [CPU]]),
        ("cpu", GPU_BUILD, SMALL_BYTES, [[CPU]]),
        ("cuda", GPU_BUILD, 1, [[CUDA, CPU]]),
        ("tensorrt", GPU_BUILD, 1, [[TENSORRT, CUDA, CPU]]),
    ],
)
def test_plans(wanted: str, available: list[str], size: int, expected: list[list[str]]) -> None:
    assert plans(wanted, available, size) == expected


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(GanglionError, match=r"no provider 'gpu'; expected one of auto, cpu, cuda, tensorrt$"):
        plans("gpu", GPU_BUILD, 1)
    with pytest.raises(GanglionError, match=r"no provider 'tensorrt', only cpu, cuda: install onnxruntime-gpu"):
        plans("tensorrt", [CUDA, CPU], 1)


def test_the_first_that_starts_computes_and_the_others_are_named() -> None:
    first = started("auto", (TENSORRT, CUDA, CPU))
    assert (first.provider, first.notice) == ("tensorrt", "")
    second = started("auto", (CUDA, CPU))
    assert (second.provider, second.notice) == ("cuda", "tensorrt did not start, so cuda computes instead")
    assert second.session.asked == [CUDA, CPU]
    last = started("auto", (CPU,))
    assert (last.provider, last.notice) == ("cpu", "tensorrt and cuda did not start, so cpu computes instead")


def test_asked_for_by_name_nothing_else_will_do() -> None:
    """onnxruntime goes on with the CPU and says so in its log alone."""
    with pytest.raises(GanglionError, match=r"the provider 'cuda' did not start \(a library of CUDA"):
        started("cuda", (CPU,))
    with pytest.raises(GanglionError, match="the provider 'tensorrt' did not start"):
        started("tensorrt", (CUDA, CPU))


def test_a_provider_that_raises_is_passed_over_or_told() -> None:
    def make(asked: list[str]) -> FakeSession:
        if asked[0] != CPU:
            raise RuntimeError("EP Error: no device")
        return FakeSession(asked, (CPU,))

    fell_back = start(plans("auto", GPU_BUILD, SMALL_BYTES), make)
    assert (fell_back.provider, fell_back.notice[:17]) == ("cpu", "tensorrt and cuda")
    with pytest.raises(GanglionError, match=r"the provider 'cuda' did not start \(EP Error: no device\): install"):
        start(plans("cuda", GPU_BUILD, 1), make)


def test_a_graph_that_the_cpu_refuses_is_told_as_such() -> None:
    def refuse(asked: list[str]) -> FakeSession:
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        start(plans("auto", GPU_BUILD, SMALL_BYTES), refuse)


def test_a_bundle_computes_on_the_cpu(kuka: Bundle) -> None:
    for provider in ("auto", "cpu"):
        inference = Controller(replace(kuka, provider=provider)).inference
        assert (inference.provider, inference.notice) == ("cpu", "")
        assert inference.session.get_providers() == [CPU]


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_bundle_is_refused_where_its_provider_is_not_there(kuka: Bundle) -> None:
    with pytest.raises(GanglionError, match="this onnxruntime has no provider 'cuda', only cpu"):
        Controller(replace(kuka, provider="cuda"))
