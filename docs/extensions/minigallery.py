"""`gallery-of`: the gallery's entries that use a name, under a heading; nothing where there are none."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_gallery.directives import MiniGallery


class GalleryOf(MiniGallery):
    """sphinx-gallery's own, where it has something to show."""

    def run(self) -> list[nodes.Node]:
        """What sphinx-gallery draws, or nothing."""
        conf = self.state.document.settings.env.config.sphinx_gallery_conf
        index = Path(conf["src_dir"], conf["backreferences_dir"], "backreferences_all.json")
        used = json.loads(index.read_text()) if index.exists() else {}
        return super().run() if used.get(self.arguments[0]) else []


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer the directive."""
    app.add_directive("gallery-of", GalleryOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
