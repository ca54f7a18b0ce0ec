"""What pyproject.toml cannot say: the files that ROS 2 looks for under share/, and what colcon reads as text."""

from pathlib import Path

import setuptools

if int(setuptools.__version__.partition(".")[0]) < 64:
    raise SystemExit(
        f"error: setuptools {setuptools.__version__} does not read pyproject.toml, 64 or later does; "
        "ROS 2 Humble comes with an older one: pip install 'setuptools>=64,<80' before colcon build"
    )


def files(pattern: str) -> list[str]:
    """Matching files of this folder, relative to it, in order."""
    return sorted(str(path) for path in Path().glob(pattern))


setuptools.setup(
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/ganglion"]),
        ("share/ganglion", ["package.xml"]),
        ("share/ganglion/launch", files("launch/*.*")),
        ("share/ganglion/bundles", files("bundles/*.onnx")),
    ],
)
