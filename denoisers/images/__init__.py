"""Images in [0, 1], as float32 arrays (N, C, H, W): photographs, folders, and sets of known dimension."""

from denoisers.images.disks import Disks
from denoisers.images.duplicates import distinct
from denoisers.images.folder import photograph, read_grey
from denoisers.images.mixture import Mixture
from denoisers.images.patches import Patches
from denoisers.images.pictures import Folder, read_colour
from denoisers.images.rays import Ray
from denoisers.images.shuffled import Shuffled
from denoisers.images.source import Source
from denoisers.images.stack import Stack, pictures_at
from denoisers.images.subsets import Subsets, disjoint
from denoisers.images.waves import Waves

__all__ = [
    "Disks",
    "Folder",
    "Mixture",
    "Patches",
    "Ray",
    "Shuffled",
    "Source",
    "Stack",
    "Subsets",
    "Waves",
    "disjoint",
    "distinct",
    "photograph",
    "pictures_at",
    "read_colour",
    "read_grey",
]
