"""The node tests of the ONNX standard, which the package onnx makes, and why some of them are none of gpucnn's."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

REASONS = {
    "transformers": "Attention LinearAttention FlexAttention RotaryEmbedding TensorScatter SwiGLU",
    "recurrence and control flow": "LSTM GRU RNN Scan Loop If CausalConvWithState ReverseSequence",
    "training, which is done by nn's losses and optim": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss Adagrad Adam "
    "Momentum",
    "networks of integers": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger "
    "MatMulInteger",
    "text": "StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder",
    "sequences and optional values": "SequenceEmpty SequenceInsert SequenceLength SequenceMap SplitToSequence "
    "OptionalGetElement OptionalHasElement",
    "arithmetic of bits": "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BitCast",
    "sound": "STFT DFT MelWeightMatrix BlackmanWindow HammingWindow HannWindow",
    "trees and tables": "TreeEnsemble ArrayFeatureExtractor Binarizer",
    "random results": "Bernoulli RandomUniformLike",
    "choices of boxes and elements": "NonMaxSuppression RoiAlign Compress NonZero Unique TopK",
    "mathematics that none of the measured networks has": "Acos Acosh Asin Asinh Atan Atanh Cosh Sinh Tan Det Einsum "
    "EyeLike Trilu CumSum CumProd OneHot ScatterElements ScatterND Scatter GatherND",
    "sampling at learnt places, and files of images": "GridSample AffineGrid DeformConv Col2Im CenterCropPad ImageDecoder",
}
NOT_THERE = {op: words for words, ops in REASONS.items() for op in ops.split()}
"""Operators that gpucnn has not, each with the reason."""


@functools.cache
def node_tests() -> list[Any]:
    """Return the node tests, of all operators."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")


def arrays(values: Any) -> list[Any]:
    """Return the inputs or outputs of a test as arrays."""
    from onnx import TensorProto, numpy_helper

    return [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in values]


def reason(case: Any) -> str | None:
    """Return why a node test is none of gpucnn's, as its file says; None where it has to pass."""
    from onnx import TensorProto

    kinds = TensorProto.DataType
    graph = case.model.graph
    missing = [node.op_type for node in graph.node if node.op_type in NOT_THERE]
    if missing:
        return NOT_THERE[missing[0]]
    plain = {kinds.Value(name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8",
                                            "UINT16", "UINT32", "UINT64")}  # fmt: skip
    values = [*graph.input, *graph.output]
    if not all(value.type.HasField("tensor_type") for value in values):
        return "sequences and optional values"
    cast_to = {a.i for node in graph.node for a in node.attribute if node.op_type == "Cast" and a.name == "to"}
    if not {value.type.tensor_type.elem_type for value in values} | cast_to <= plain:
        return "element types: bfloat16, of 8, 4 and 2 bits, text"
    windows = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"}
    if any(node.op_type in windows for node in graph.node) and np.ndim(case.data_sets[0][0][0]) == 5:
        return "volumes: three dimensions"
    if case.name.startswith("test_training_dropout"):
        return "random results"
    return None
