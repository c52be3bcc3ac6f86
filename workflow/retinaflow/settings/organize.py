"""Settings of the class folders."""

from typing import Literal

from retinaflow.settings.section import Section


class OrganizeSettings(Section):
    """Class folders of the images."""

    mode: Literal["symlink", "hardlink", "copy"] = "symlink"
    """Kind of the file in the class folder. The source folder is never changed."""
