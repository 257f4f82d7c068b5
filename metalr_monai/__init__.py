"""Fine-tune pre-trained medical networks with learning rates that are learned per block while training."""

from .data.check_volumes import check_volumes
from .data.ct_lists import data_list
from .data.ct_phantom import write_lits_phantoms
from .data.hold_out import hold_out
from .data.meta_batches import MetaBatches
from .data.prepare import phantom_data_set, split_data_list
from .data.regions import LabelToRegionsd, RegionsToLabeld
from .data.splits import apply_split, make_split, read_split, write_split
from .errors import MetaLRError
from .handlers.epoch_seed import EpochSeed
from .handlers.example_slices import ExampleSlices
from .handlers.metalr import MetaLRHandler
from .handlers.progress import Progress
from .handlers.rate_history import RateHistoryHandler, plot_rates, save_rates
from .handlers.report_page import write_report_page
from .handlers.run_checkpoints import RunCheckpoints, latest_checkpoint
from .handlers.run_report import RunReport
from .handlers.segmentation_scores import SegmentationScores
from .networks.genesis_unet3d import GenesisUNet3D
from .rates.blocks import Blocks, blocks, param_groups
from .rates.history import RateHistory
from .rates.tuner import MetaLR
from .weights.describe import describe_checkpoint
from .weights.load import load_weights

__version__ = "0.1.0"
__all__ = [
    "Blocks",
    "EpochSeed",
    "ExampleSlices",
    "GenesisUNet3D",
    "LabelToRegionsd",
    "MetaBatches",
    "MetaLR",
    "MetaLRError",
    "MetaLRHandler",
    "Progress",
    "RateHistory",
    "RateHistoryHandler",
    "RegionsToLabeld",
    "RunCheckpoints",
    "RunReport",
    "SegmentationScores",
    "apply_split",
    "blocks",
    "check_volumes",
    "data_list",
    "describe_checkpoint",
    "hold_out",
    "latest_checkpoint",
    "load_weights",
    "make_split",
    "param_groups",
    "phantom_data_set",
    "plot_rates",
    "read_split",
    "save_rates",
    "split_data_list",
    "write_lits_phantoms",
    "write_report_page",
    "write_split",
]
