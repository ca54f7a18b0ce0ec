"""Moving pictures: real renderings, encoded and read back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageSequence

from runtime.bundle import Bundle
from runtime.errors import ContractError, GanglionError
from sim.env import make_env
from sim.video import Scene, record_video
from sim.watch import watch


def read(path: Path, width: int, height: int) -> np.ndarray:
    """Frames (T, height, width, 3) uint8."""
    command = (imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-f", "rawvideo")
    raw = subprocess.run((*command, "-pix_fmt", "rgb24", "-"), capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def red(strip: np.ndarray) -> int:
    """Number of red pixels in (H, W, 3)."""
    r, g, b = (strip[..., i].astype(int) for i in range(3))
    return int(((r > 150) & (g < 130) & (b < 130)).sum())


def test_two_bundles_side_by_side_and_what_they_have_lost(kuka: Bundle, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    scene = Scene(seed=3, fault="lost:lbr_iiwa_joint_2@0.2", seconds=0.4, width=320)
    path = tmp_path / "new" / "v.mp4"
    record_video([("one", kuka), ("two", kuka)], path, scene, lambda *count: calls.append(count))
    frames = read(path, 640, 180 + 90)
    assert len(frames) == 10
    assert calls == [(i + 1, 10) for i in range(10)]
    early, late = frames[3, 180:], frames[-1, 180:]
    assert red(early) == 0
    assert red(late[:, :320]) > 50
    assert red(late[:, 320:]) > 50
    assert frames[0, :180].std() > 10, "something is seen"
    assert [p.name for p in path.parent.iterdir()] == ["v.mp4"]


def test_reasons_are_left_out_where_there_is_no_room(kuka: Bundle, tmp_path: Path) -> None:
    """At 400 pixels a name alone fits into its half, with its reason it would run over the edge."""
    frames = []
    for width, height in ((400, 224), (640, 360)):
        scene = Scene(fault="lost:lbr_iiwa_joint_2", seconds=0.2, width=width)
        record_video([("arm", kuka)], tmp_path / "v.mp4", scene)
        frames.append(read(tmp_path / "v.mp4", width, height + 90)[-1, height:])
    narrow, wide = frames
    assert red(narrow) > 50
    assert red(narrow[:, -4:]) == 0
    assert red(wide) > 1.2 * red(narrow)


def test_a_gif_of_a_robot_on_the_floor(tmp_path: Path, cartpole: Bundle) -> None:
    path = tmp_path / "v.gif"
    record_video([("pole", cartpole)], path, Scene(seconds=0.2, width=160))
    with Image.open(path) as image:
        assert image.size == (160, 180)
        assert len(list(ImageSequence.Iterator(image))) == 5


@pytest.mark.parametrize("task", ["a1_walk", "panda_push", "gym:HalfCheetahBulletEnv-v0"])
def test_pictures_of_other_worlds(task: str) -> None:
    env = make_env(task, render_mode="rgb_array")
    env.reset(seed=0)
    first = np.asarray(env.render())
    for _ in range(20):
        env.step(np.full(env.layout.joints, 0.5))
    second = np.asarray(env.render())
    assert first.shape[2] == 3
    assert first.dtype == np.uint8
    assert (first != second).any()
    env.close()


def test_bad_requests(kuka: Bundle, cartpole: Bundle, tmp_path: Path) -> None:
    with pytest.raises(GanglionError, match=r"expected a name that ends in .mp4 or .gif"):
        record_video([("x", kuka)], tmp_path / "v.avi", Scene())
    with pytest.raises(ContractError, match="does not fit the task"):
        record_video([("x", kuka), ("y", cartpole)], tmp_path / "v.mp4", Scene())
    with pytest.raises(ContractError, match="'gremlins' is not understood"):
        record_video([("x", kuka)], tmp_path / "v.mp4", Scene(fault="gremlins"))
    with pytest.raises(GanglionError, match="no world 'mars'"):
        record_video([("x", kuka)], tmp_path / "v.mp4", Scene(world="mars"))
    assert list(tmp_path.iterdir()) == []


def test_a_window_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GanglionError, match=r"there is no display for a window .*ganglion video"):
        make_env("a1_walk", render_mode="human")


@pytest.mark.parametrize("controlled", [False, True])
def test_watching_goes_on_until_told(cartpole: Bundle, controlled: bool) -> None:
    env = make_env("cartpole", render_mode="rgb_array")
    left = iter(range(5))
    watch(env, cartpole if controlled else None, 0, lambda: next(left, None) is not None)
    assert env.time_s == pytest.approx(0.05, abs=0.011)
    env.close()
