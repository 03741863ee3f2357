"""What was asked: one settings model per subcommand.

One field is one flag, one recipe key, one Python keyword and one key of the report: a new option is written here and
nowhere else. A new command is one class and one line in `JOBS`.
"""

from smoothtool.jobs.base import Job, ModelJob, ReportJob, fields_of
from smoothtool.jobs.bench import BenchJob
from smoothtool.jobs.drag import DRAG_ITERATIONS, DragJob, drag_iterations, identity_steps, opened_steps
from smoothtool.jobs.edit import DEFAULT_RATIO, EDIT_INVERSIONS, NEED_SOURCE, EditJob
from smoothtool.jobs.edit_choice import chosen, kind_of_edit
from smoothtool.jobs.interpolate import MORPH_NAMES, SHARED_INVERSION, InterpolateJob
from smoothtool.jobs.invert import INVERSION_NAMES, InversionJob, InvertJob
from smoothtool.jobs.measure import EvalJob, IstdJob, TablesJob
from smoothtool.jobs.notation import parse_lora, parse_point, parse_setting, parse_shard, parse_size, parse_weight
from smoothtool.jobs.train import TrainJob
from smoothtool.jobs.validation import JOBS, keys_of, make_job, positional_of, try_job, unknown_option

__all__ = [
    "DEFAULT_RATIO",
    "DRAG_ITERATIONS",
    "EDIT_INVERSIONS",
    "INVERSION_NAMES",
    "JOBS",
    "MORPH_NAMES",
    "NEED_SOURCE",
    "SHARED_INVERSION",
    "BenchJob",
    "DragJob",
    "EditJob",
    "EvalJob",
    "InterpolateJob",
    "InversionJob",
    "InvertJob",
    "IstdJob",
    "Job",
    "ModelJob",
    "ReportJob",
    "TablesJob",
    "TrainJob",
    "chosen",
    "drag_iterations",
    "fields_of",
    "identity_steps",
    "keys_of",
    "kind_of_edit",
    "make_job",
    "opened_steps",
    "parse_lora",
    "parse_point",
    "parse_setting",
    "parse_shard",
    "parse_size",
    "parse_weight",
    "positional_of",
    "try_job",
    "unknown_option",
]
