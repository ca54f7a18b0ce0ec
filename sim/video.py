"""Moving pictures of bundles in simulation, several side by side, with what each of them believes drawn in."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runtime.bundle import Bundle
from runtime.controller import Command, Controller
from runtime.errors import GanglionError
from runtime.safety import Status
from runtime.sensing import Reason
from sim.env import TaskEnv, make_env
from sim.episode import episode
from sim.evaluate import fault_names, match_task
from sim.tasks import NOMINAL, task_class

_STRIP = 90  # pixels under the picture
_PAST_S = 5.0  # of the free energy that is shown
_MOST_NAMES = 6  # of masked sensors
_DARK, _LIGHT, _RED, _GREEN = (18, 22, 30), (225, 230, 236), (240, 90, 80), (110, 200, 130)


@dataclass(frozen=True)
class Scene:
    """What is shown."""

    task: str = ""
    """Task to run; the one that the first bundle was trained for if empty."""
    seed: int = 1_000_000
    fault: str = NOMINAL
    world: str = NOMINAL
    seconds: float = 0.0
    """Length; the whole episode if zero."""
    width: int = 640
    """Of each bundle's picture."""
    fps: int = 25


def record_video(
    bundles: Sequence[tuple[str, Bundle]],
    output: Path,
    scene: Scene,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the bundles, each under its name, to `output`: a GIF if it is called .gif, else MP4.

    `progress` is called with the pictures done and the total. Raises GanglionError if a bundle does not fit the task,
    or the fault, the world or the file's name is not known.
    """
    if output.suffix not in (".mp4", ".gif"):
        raise GanglionError(f"got {output}, expected a name that ends in .mp4 or .gif")
    name = scene.task or bundles[0][1].contract.provenance.task
    info = task_class(name)
    seconds = scene.seconds or info.episode_steps / info.rate_hz
    every = max(1, round(info.rate_hz / scene.fps))
    total = int(seconds * info.rate_hz / every)
    with contextlib.ExitStack() as stack:
        panels = []
        for title, bundle in bundles:
            env = make_env(name, render_mode="rgb_array")
            stack.callback(env.close)
            panels.append(_panel(title, bundle, env, scene, every))
        frames = _counted(_side_by_side(panels, total), total, progress)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            draft = Path(folder) / f"video{output.suffix}"
            (_write_gif if output.suffix == ".gif" else _write_mp4)(draft, frames, info.rate_hz / every)
            draft.replace(output)


def _panel(title: str, bundle: Bundle, env: TaskEnv, scene: Scene, every: int) -> Iterator[Image.Image]:
    """Pictures of one bundle, every `every` ticks."""
    columns = match_task(bundle.contract, task_class(env.task.name))
    env.set_randomisation(env.task.world(scene.world))
    env.set_faults(fault_names(scene.fault))
    overlay = _Overlay(title, bundle, env.task.rate_hz)
    for tick in episode(Controller(bundle), env, scene.seed, columns):
        overlay.add(tick.command, tick.outcome.metrics)
        if tick.index % every == 0:
            yield overlay.drawn(_picture(env, scene.width), tick.index / env.task.rate_hz)


def _picture(env: TaskEnv, width: int) -> Image.Image:
    image = Image.fromarray(np.asarray(env.render()))
    height = image.height * width / image.width
    return image.resize((2 * round(width / 2), 2 * round(height / 2)))  # encoders take even sizes only


class _Overlay:
    """Free energy, masked sensors, the state of the controller, and how well the task is done."""

    def __init__(self, title: str, bundle: Bundle, rate_hz: float) -> None:
        self._title = title
        self._channels = bundle.contract.layout.channels
        self._past: deque[float] = deque(maxlen=round(_PAST_S * rate_hz))
        self._command: Command | None = None
        self._metrics: Mapping[str, float] = {}
        self._font = ImageFont.load_default(size=15)
        self._small = ImageFont.load_default(size=12)

    def add(self, command: Command, metrics: Mapping[str, float]) -> None:
        """One tick."""
        self._past.append(command.free_energy)
        self._command, self._metrics = command, metrics

    def drawn(self, picture: Image.Image, time_s: float) -> Image.Image:
        """The picture with a strip under it."""
        assert self._command is not None
        width, height = picture.size
        frame = Image.new("RGB", (width, height + _STRIP), _DARK)
        frame.paste(picture, (0, 0))
        draw = ImageDraw.Draw(frame)
        draw.text((10, 8), self._title, _DARK, font=self._font)
        draw.text((width - 70, 8), f"{time_s:5.1f} s", _DARK, font=self._font)
        for i, (name, value) in enumerate(self._metrics.items()):
            draw.text((10, 28 + 13 * i), f"{value:.2f}  {name}", _DARK, font=self._small)
        self._curve(draw, (10, height + 24, width // 2 - 10, height + _STRIP - 8))
        draw.text((10, height + 5), f"free energy {self._command.free_energy:9.0f}", _LIGHT, font=self._small)
        self._masked(draw, width // 2 + 10, width, height + 5)
        return frame

    def _curve(self, draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
        left, top, right, bottom = box
        values = np.nan_to_num(np.array(self._past))
        draw.line((left, bottom, right, bottom), fill=_LIGHT)
        if len(values) < 2:
            return
        low, high = np.percentile(values, (2, 98))
        share = np.clip((values - low) / max(high - low, 10.0), 0.0, 1.0)
        x = right - (right - left) * np.arange(len(values) - 1, -1, -1) / (self._past.maxlen or 1)
        draw.line([(float(a), float(bottom - (bottom - top) * s)) for a, s in zip(x, share)], fill=_GREEN, width=2)

    def _masked(self, draw: ImageDraw.ImageDraw, left: int, right: int, top: int) -> None:
        """Names of the masked channels, with their reasons where there is room."""
        assert self._command is not None
        reasons = self._command.reasons
        masked = [c for c, r in zip(self._channels, reasons) if r]
        told = [f"{c}: {Reason(int(r)).text}" for c, r in zip(self._channels, reasons) if r]
        if all(draw.textlength(text, font=self._small) <= right - left for text in told):
            masked = told
        status = "" if self._command.status is Status.ACTIVE else f", {self._command.status.name.lower()}"
        draw.text((left, top), f"masked {len(masked)} of {len(reasons)}{status}", _LIGHT, font=self._small)
        if len(masked) > _MOST_NAMES:
            masked = [*masked[: _MOST_NAMES - 1], f"and {len(masked) - _MOST_NAMES + 1} more"]
        for i, text in enumerate(masked):
            draw.text((left, top + 15 + 12 * i), text, _RED, font=self._small)


def _side_by_side(panels: list[Iterator[Image.Image]], total: int) -> Iterator[Image.Image]:
    """Frames of all panels; one whose episode has ended keeps its last picture until all have."""
    last: list[Image.Image | None] = [None] * len(panels)
    for _ in range(total):
        new = [next(panel, None) for panel in panels]
        if all(image is None for image in new):
            return
        last = [n or b for n, b in zip(new, last, strict=True)]
        images = [image for image in last if image is not None]
        frame = Image.new("RGB", (sum(i.width for i in images), images[0].height))
        left = 0
        for image in images:
            frame.paste(image, (left, 0))
            left += image.width
        yield frame


def _counted(
    frames: Iterator[Image.Image], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Image.Image]:
    for done, frame in enumerate(frames, 1):
        yield frame
        if progress is not None:
            progress(done, total)


def _write_mp4(path: Path, frames: Iterator[Image.Image], fps: float) -> None:
    first = next(frames)
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.width}x{first.height}", "-r", f"{fps:g}", "-i", "-")
    coded = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "22", "-movflags", "+faststart")
    command = (imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *raw, *coded, str(path))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for frame in itertools.chain((first,), frames):
            encoder.stdin.write(frame.tobytes())
    if encoder.returncode:
        raise GanglionError(f"ffmpeg could not encode the video (status {encoder.returncode}); its message is above")


def _write_gif(path: Path, frames: Iterator[Image.Image], fps: float) -> None:
    images = [frame.quantize(64) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, optimize=True)
