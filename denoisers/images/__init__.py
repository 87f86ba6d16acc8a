"""Images: synthetic C^alpha images and photographs, in [0, 1], as float32 arrays (N, 1, H, W)."""

from denoisers.images.folder import photograph, read_grey

__all__ = ["photograph", "read_grey"]
