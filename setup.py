"""Builds from the tree as it is now. What else there is to say of the package is in pyproject.toml."""

import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class FreshBuild(build_py):
    """`build_py` into an empty folder: setuptools packs all of build/lib, also what an earlier build left there."""

    def run(self) -> None:
        """Remove the earlier build, and build."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(cmdclass={"build_py": FreshBuild})
