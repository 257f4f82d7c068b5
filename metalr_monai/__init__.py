"""Fine-tune pre-trained medical networks with learning rates that are learned per block while training."""

from .errors import MetaLRError
from .rates.blocks import Blocks, blocks, param_groups
from .rates.history import RateHistory
from .rates.tuner import MetaLR

__version__ = "0.1.0"
__all__ = ["Blocks", "MetaLR", "MetaLRError", "RateHistory", "blocks", "param_groups"]
