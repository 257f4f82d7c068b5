"""Fine-tune pre-trained medical networks with learning rates that are learned per block while training."""

from .data.hold_out import hold_out
from .data.meta_batches import MetaBatches
from .errors import MetaLRError
from .handlers.metalr import MetaLRHandler
from .handlers.rate_history import RateHistoryHandler, plot_rates, save_rates
from .networks.genesis_unet3d import GenesisUNet3D
from .rates.blocks import Blocks, blocks, param_groups
from .rates.history import RateHistory
from .rates.tuner import MetaLR

__version__ = "0.1.0"
__all__ = [
    "Blocks",
    "GenesisUNet3D",
    "MetaBatches",
    "MetaLR",
    "MetaLRError",
    "MetaLRHandler",
    "RateHistory",
    "RateHistoryHandler",
    "blocks",
    "hold_out",
    "param_groups",
    "plot_rates",
    "save_rates",
]
