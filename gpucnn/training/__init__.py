"""Training: batches to the device, one visible step, epochs, checkpoints, the run folder."""

from typing import TypeAlias

from gpucnn.training.average import EMA
from gpucnn.training.callback import Callback
from gpucnn.training.callbacks import Checkpoints, EachEpoch, EarlyStopping, Progress, Schedule
from gpucnn.training.config import PRECISIONS, Settings, check_trusted, read_toml, recipe
from gpucnn.training.data_loader import DataLoader
from gpucnn.training.epochs import Epochs
from gpucnn.training.evaluation import Evaluation, evaluate
from gpucnn.training.factory import build_model, check_model, check_named, check_precision, run_name
from gpucnn.training.interrupt import InterruptedTraining
from gpucnn.training.loader import Batches, Loader, Normalisation
from gpucnn.training.loop import Loop
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.metrics import Accuracy, Loss, LossAndAccuracy, Metric, PerClass, TopK
from gpucnn.training.mixing import MixedBatches
from gpucnn.training.reporters import Reporter, Reporters
from gpucnn.training.run_folder import RunFolder
from gpucnn.training.saved import SavedModel
from gpucnn.training.several import distributed
from gpucnn.training.step import train_step
from gpucnn.training.tensorboard import TensorBoard
from gpucnn.training.timer import Timer
from gpucnn.training.trainer import Trainer

Feed: TypeAlias = Loader
Totals: TypeAlias = LossAndAccuracy
"""The names of the loader and the running metrics in 0.1.0."""

__all__ = [
    "EMA",
    "PRECISIONS",
    "Accuracy",
    "Batches",
    "Callback",
    "Checkpoints",
    "DataLoader",
    "EachEpoch",
    "EarlyStopping",
    "Epochs",
    "Evaluation",
    "Feed",
    "InterruptedTraining",
    "Loader",
    "Loop",
    "Loss",
    "LossAndAccuracy",
    "LossScale",
    "Metric",
    "MixedBatches",
    "Normalisation",
    "PerClass",
    "Progress",
    "Reporter",
    "Reporters",
    "RunFolder",
    "SavedModel",
    "Schedule",
    "Settings",
    "TensorBoard",
    "Timer",
    "TopK",
    "Totals",
    "Trainer",
    "build_model",
    "check_model",
    "check_named",
    "check_precision",
    "check_trusted",
    "distributed",
    "evaluate",
    "read_toml",
    "recipe",
    "run_name",
    "train_step",
]
