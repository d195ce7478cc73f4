"""What every room uses: argument checks, files written whole, linear combinations of tensors, plug-ins, scaling."""

from sdescore.common.checks import (
    check_count,
    check_dtype,
    check_fields,
    check_finite,
    check_flag,
    check_integer,
    check_number,
    check_returned,
    check_returned_numbers,
    check_seed,
    check_states,
    check_tensor,
    choose,
    described,
    require,
    unwritten,
)
from sdescore.common.files import is_empty, locked, parse_json, read_json, refused, replace_file, write_through
from sdescore.common.linear_combinations import Coefficient, Summand, combine, expand, materialise, scale, weight
from sdescore.common.plugins import check_arguments, find_plugin, named_object, plugin_name, plugin_names
from sdescore.common.quadrature import gauss
from sdescore.common.random import generator
from sdescore.common.scaling import Scaling, level_width

__all__ = [
    "Coefficient",
    "Scaling",
    "Summand",
    "check_arguments",
    "check_count",
    "check_dtype",
    "check_fields",
    "check_finite",
    "check_flag",
    "check_integer",
    "check_number",
    "check_returned",
    "check_returned_numbers",
    "check_seed",
    "check_states",
    "check_tensor",
    "choose",
    "combine",
    "described",
    "expand",
    "find_plugin",
    "gauss",
    "generator",
    "is_empty",
    "level_width",
    "locked",
    "materialise",
    "named_object",
    "parse_json",
    "plugin_name",
    "plugin_names",
    "read_json",
    "refused",
    "replace_file",
    "require",
    "scale",
    "unwritten",
    "weight",
    "write_through",
]
