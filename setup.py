"""Says what the wheel holds; everything else about the package stands in ``pyproject.toml``."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["lossbalance*"]),
        *find_namespace_packages(include=["hydra_plugins.*"], exclude=["*.__pycache__"]),
        "lossbalance.conf",
    ],
    package_dir={"lossbalance.conf": "conf"},
)
