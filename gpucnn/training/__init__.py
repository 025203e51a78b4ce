"""Training: batches to the device, one visible step, epochs, checkpoints, the run folder."""

from gpucnn.training.epochs import Epochs
from gpucnn.training.evaluation import Evaluation, evaluate
from gpucnn.training.feed import Feed, Normalisation
from gpucnn.training.interrupt import InterruptedTraining
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.reporters import EachEpoch, Reporters
from gpucnn.training.run_folder import RunFolder
from gpucnn.training.saved import SavedModel
from gpucnn.training.settings import PRECISIONS, Settings, check_trusted, read_toml, recipe
from gpucnn.training.setup import build_model, check_model, check_named, check_precision, run_name
from gpucnn.training.step import Totals, train_step
from gpucnn.training.tensorboard import TensorBoard
from gpucnn.training.trainer import Reporter, Trainer

__all__ = [
    "PRECISIONS",
    "EachEpoch",
    "Epochs",
    "Evaluation",
    "Feed",
    "InterruptedTraining",
    "LossScale",
    "Normalisation",
    "Reporter",
    "Reporters",
    "RunFolder",
    "SavedModel",
    "Settings",
    "TensorBoard",
    "Totals",
    "Trainer",
    "build_model",
    "check_model",
    "check_named",
    "check_precision",
    "check_trusted",
    "evaluate",
    "read_toml",
    "recipe",
    "run_name",
    "train_step",
]
