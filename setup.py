"""What pyproject.toml cannot say: the files that ROS 2 looks for under share/."""

import os
from glob import glob

from setuptools import setup

SHARE = os.path.join("share", "ganglion")  # noqa: PTH118

setup(
    license="Apache-2.0",
    data_files=[
        (os.path.join("share", "ament_index", "resource_index", "packages"), ["resource/ganglion"]),  # noqa: PTH118
        (SHARE, ["package.xml"]),
        (os.path.join(SHARE, "launch"), sorted(glob("launch/*.py") + glob("launch/*.yaml"))),  # noqa: PTH118, PTH207
        (os.path.join(SHARE, "bundles"), sorted(glob("bundles/*.onnx"))),  # noqa: PTH118, PTH207
    ],
)
