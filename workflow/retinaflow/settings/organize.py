"""Settings of the class folders."""

from typing import Literal

from retinaflow.settings.section import Section


class OrganizeSettings(Section):
    """How the class folders are made."""

    mode: Literal["symlink", "hardlink", "copy"] = "symlink"
    """How an image gets into its class folder. The source folder is never changed."""
