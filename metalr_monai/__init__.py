"""Fine-tune pre-trained medical networks with learning rates that are learned per block while training."""

from .data.check_images import check_images
from .data.check_volumes import check_volumes
from .data.class_label import ClassLabeld
from .data.ct_lists import data_list
from .data.ct_phantom import write_lits_phantoms
from .data.data_check import DataCheck
from .data.group_splits import apply_group_split, make_group_split, split_counts
from .data.hold_out import hold_out
from .data.image_lists import image_list
from .data.invert_to_label import InvertToLabeld
from .data.largest_component import LargestComponentd
from .data.meta_batches import MetaBatches
from .data.pictures import Pictures
from .data.pocus_folds import write_pocus_folds
from .data.pocus_videos import write_pocus_frames
from .data.prepare import phantom_data_set, split_data_list
from .data.prepare_images import class_weights, phantom_image_set, split_image_list, split_picture_list
from .data.read_picture import PictureReader, load_picture, read_picture
from .data.regions import LabelToRegionsd, RegionsToLabeld
from .data.resample import AxisSpacingd
from .data.scan_reader import ScanReader
from .data.scans import Scans
from .data.splits import apply_split, make_split, read_split, write_split
from .data.unlabelled_check import UnlabelledCheck
from .data.untracked import Untracked
from .errors import MetaLRError
from .evaluation.feature_maps import feature_maps
from .export.dicom_seg import SaveDicomSegd
from .handlers.activation_pictures import ActivationPictures
from .handlers.best_model import BestModel
from .handlers.classification_scores import ClassificationScores
from .handlers.epoch_seed import EpochSeed
from .handlers.example_pictures import ExamplePictures
from .handlers.example_slices import ExampleSlices
from .handlers.final_model import FinalModel, trained_settings
from .handlers.metalr import MetaLRHandler
from .handlers.prediction_table import PredictionTable
from .handlers.progress import Progress
from .handlers.rank_sampler import each_case_once
from .handlers.rate_history import RateHistoryHandler, plot_rates, save_rates
from .handlers.report_page import write_report_page
from .handlers.run_checkpoints import RunCheckpoints, latest_checkpoint
from .handlers.run_report import RunReport
from .handlers.segmentation_scores import SegmentationScores
from .handlers.served_model import ServedModel
from .handlers.served_training import check_served_data, meta_fault, model_files, panel_choices
from .networks.bfloat16 import Bfloat16Inferer
from .networks.efficientnet_lite0 import EfficientNetLite0
from .networks.fold_ensemble import FoldEnsemble
from .networks.genesis_unet3d import GenesisUNet3D
from .networks.resnet18 import resnet18
from .planning.prepared_cases import LoadPreparedd
from .pretraining.cube_set import cube_set
from .pretraining.cubes import RandOccupiedCubesd
from .pretraining.dictionary import RandGenesisFlipd, RandLocalShufflingd, RandNonlinearIntensityd, RandPaintingd
from .pretraining.picture_restorer import PictureRestorer
from .pretraining.prepare_deformed import PrepareDeformed
from .pretraining.restoration_loss import RestorationLoss
from .pretraining.restored_pictures import RestoredPictures
from .rates.blocks import Blocks, blocks, param_groups
from .rates.history import RateHistory
from .rates.level_search import LevelSearch
from .rates.tuner import MetaLR
from .schemes.auto_rgn import AutoRGN
from .schemes.autolr import AutoLR
from .schemes.block_ranges import expanding_path, frozen_range
from .schemes.frozen_blocks import FrozenBlocks
from .schemes.gradual_unfreezing import GradualUnfreezing
from .schemes.l2_sp import L2SP
from .schemes.layerwise_decay import LayerwiseDecay
from .schemes.probe_then_tune import ProbeThenTune
from .schemes.schedule_free import ScheduleFree
from .schemes.scheduled_rates import RateSchedule, ScheduledRates
from .settings import check_settings
from .weights.describe import describe_checkpoint
from .weights.imagenet import efficientnet_lite0_file
from .weights.load import load_weights
from .weights.shipped import genesis_small_file

__version__ = "0.1.0"
__all__ = [
    "L2SP",
    "ActivationPictures",
    "AutoLR",
    "AutoRGN",
    "AxisSpacingd",
    "BestModel",
    "Bfloat16Inferer",
    "Blocks",
    "ClassLabeld",
    "ClassificationScores",
    "DataCheck",
    "EfficientNetLite0",
    "EpochSeed",
    "ExamplePictures",
    "ExampleSlices",
    "FinalModel",
    "FoldEnsemble",
    "FrozenBlocks",
    "GenesisUNet3D",
    "GradualUnfreezing",
    "InvertToLabeld",
    "LabelToRegionsd",
    "LargestComponentd",
    "LayerwiseDecay",
    "LevelSearch",
    "LoadPreparedd",
    "MetaBatches",
    "MetaLR",
    "MetaLRError",
    "MetaLRHandler",
    "PictureReader",
    "PictureRestorer",
    "Pictures",
    "PredictionTable",
    "PrepareDeformed",
    "ProbeThenTune",
    "Progress",
    "RandGenesisFlipd",
    "RandLocalShufflingd",
    "RandNonlinearIntensityd",
    "RandOccupiedCubesd",
    "RandPaintingd",
    "RateHistory",
    "RateHistoryHandler",
    "RateSchedule",
    "RegionsToLabeld",
    "RestorationLoss",
    "RestoredPictures",
    "RunCheckpoints",
    "RunReport",
    "SaveDicomSegd",
    "ScanReader",
    "Scans",
    "ScheduleFree",
    "ScheduledRates",
    "SegmentationScores",
    "ServedModel",
    "UnlabelledCheck",
    "Untracked",
    "apply_group_split",
    "apply_split",
    "blocks",
    "check_images",
    "check_served_data",
    "check_settings",
    "check_volumes",
    "class_weights",
    "cube_set",
    "data_list",
    "describe_checkpoint",
    "each_case_once",
    "efficientnet_lite0_file",
    "expanding_path",
    "feature_maps",
    "frozen_range",
    "genesis_small_file",
    "hold_out",
    "image_list",
    "latest_checkpoint",
    "load_picture",
    "load_weights",
    "make_group_split",
    "make_split",
    "meta_fault",
    "model_files",
    "panel_choices",
    "param_groups",
    "phantom_data_set",
    "phantom_image_set",
    "plot_rates",
    "read_picture",
    "read_split",
    "resnet18",
    "save_rates",
    "split_counts",
    "split_data_list",
    "split_image_list",
    "split_picture_list",
    "trained_settings",
    "write_lits_phantoms",
    "write_pocus_folds",
    "write_pocus_frames",
    "write_report_page",
    "write_split",
]
