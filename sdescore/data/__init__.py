"""Sources of samples: arrays, files, folders, map-style data sets and codes; their order and statistics."""

from sdescore.data.batches import batches
from sdescore.data.codes import MappedCodes, write_codes
from sdescore.data.conditions import Conditioned
from sdescore.data.idx import idx
from sdescore.data.images import Images
from sdescore.data.load import digits, load, npz
from sdescore.data.map_style import MapStyle
from sdescore.data.memory_mapped import MemoryMapped
from sdescore.data.ranges import find_scaling
from sdescore.data.source import Arrays, Source
from sdescore.data.statistics import Statistics, measure, read_statistics
from sdescore.data.table import read_table, table
from sdescore.data.unreadable import SkipUnreadable

__all__ = [
    "Arrays",
    "Conditioned",
    "Images",
    "MapStyle",
    "MappedCodes",
    "MemoryMapped",
    "SkipUnreadable",
    "Source",
    "Statistics",
    "batches",
    "digits",
    "find_scaling",
    "idx",
    "load",
    "measure",
    "npz",
    "read_statistics",
    "read_table",
    "table",
    "write_codes",
]
