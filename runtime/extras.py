"""Which extra of the distribution brings which module, for errors that say what to install."""

from __future__ import annotations

EXTRAS = {
    "cpu": ("onnxruntime",),
    "ros": ("rclpy",),
    "sim": ("pybullet", "pybullet_data", "gymnasium"),
    "video": ("PIL", "imageio_ffmpeg"),
    "train": ("torch", "tensorboard"),
    "sweep": ("optuna",),
    "scale": ("ray",),
    "export": ("onnx", "onnxscript"),
    "replay": ("rosbags", "zstandard", "lz4"),
    "sign": ("cryptography",),
    "parquet": ("pyarrow",),
    "report": ("matplotlib", "plotly", "jinja2"),
}
"""Modules by extra."""


def explain_missing(error: ModuleNotFoundError) -> str:
    """One line that says what to install."""
    module = (error.name or "").split(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return f"the module {error.name} is missing; install ganglion again, with the extra that holds it"
    beside = "source your ROS 2 installation, or " if extra == "ros" else ""
    return f"this needs {module}, which is not installed; {beside}pip install 'ganglion[{extra}]'"
