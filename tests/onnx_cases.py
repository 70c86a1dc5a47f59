"""Graphs of one op for every kind, and how the ONNX tests quantise and run what they emit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import Scheme

# By name, because several graphs show one kind; the part before the dot is the kind.
LINES = {
    "conv": "y = conv(x, w[6,4,3,3], b[6]) stride=(2,2) pad=(1,1,1,1) clip=(0.0,None)",
    "conv.plain": "y = conv(x, w[6,4,1,1])",
    "conv.depthwise": "y = conv(x, w[4,1,3,3], b[4]) pad=(0,1,0,1) groups=4 clip=(0.0,6.0)",
    "conv.grouped": "y = conv(x, w[6,2,3,3], b[6]) groups=2 dilation=(2,2) clip=(-0.1,0.2)",
    "deform_conv": "o = conv(x, wo[18,4,3,3], bo[18]) pad=(1,1,1,1)\n"
    "y = deform_conv(x, w[6,4,3,3], b[6], o) pad=(1,1,1,1)",
    "deform_conv.modulated": "o = conv(x, wo[16,4,2,2], bo[16]) stride=(2,2) pad=(1,0,0,1)\n"
    "c = conv(x, wm[8,4,2,2], bm[8]) stride=(2,2) pad=(1,0,0,1)\nm = sigmoid(c)\n"
    "y = deform_conv(x, w[6,2,2,2], b[6], o, m) stride=(2,2) pad=(1,0,0,1) clip=(0.0,6.0)",
    "linear": "f = flatten(x)\ny = linear(f, w[5,256], b[5])",
    "linear.map": "y = linear(x, w[5,8], b[5]) clip=(0.0,None)",
    "batch_norm": "y = batch_norm(x, gamma[4], beta[4], mean[4], var[4]) eps=1e-05",
    "add": "a = conv(x, w[4,4,1,1], b[4])\ny = add(x, a) clip=(0.0,None)",
    "add.constant": "y = add(x, c[4,1,1])",
    "add.twice": "y = add(x, x)",
    "sub": "a = conv(x, w[4,4,1,1], b[4])\ny = sub(x, a)",
    "mul": "g = global_pool(x)\ny = mul(x, g)",
    "hard_swish": "a = conv(x, w[4,4,1,1], b[4])\ny = hard_swish(a)",
    "hard_swish.shared": "a = conv(x, w[4,4,1,1], b[4])\nh = hard_swish(a)\ny = add(h, a)",
    "hard_sigmoid": "y = hard_sigmoid(x)",
    "sigmoid": "y = sigmoid(x)",
    "silu": "y = silu(x)",
    "tanh": "y = tanh(x)",
    "gelu": "y = gelu(x)",
    "clip": "y = clip(x) lo=-0.5 hi=None",
    "clip.relu": "y = clip(x) lo=0.0 hi=None",
    "clip.shared": "r = clip(x) lo=-0.5 hi=0.7\ny = add(r, x)",
    "leaky_relu": "y = leaky_relu(x) slope=0.1",
    "softmax": "f = flatten(x)\ny = softmax(f) axis=1",
    "lrn": "y = lrn(x) size=3 alpha=0.5 beta=0.75 k=2.0",
    "lrn.even": "y = lrn(x) size=4 alpha=0.5 beta=0.6 k=1.0",
    "lrn.wide": "y = lrn(x) size=7 alpha=0.5 beta=0.5 k=1.0",
    "max_pool": "y = max_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)",
    "avg_pool": "y = avg_pool(x) kernel=(2,2) stride=(2,2)",
    "avg_pool.outside": "y = avg_pool(x) kernel=(3,3) stride=(1,1) pad=(1,1,1,1)",
    "avg_pool.counted": "y = avg_pool(x) kernel=(3,3) stride=(1,1) pad=(1,1,1,1) counted=(1,1,1,1)",
    "avg_pool.mixed": "y = avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,2,1,2) counted=(1,1,1,1)",
    "global_pool": "y = global_pool(x)",
    "global_pool.flat": "y = global_pool(x) keepdims=False",
    "concat": "a = conv(x, w[4,4,1,1], b[4])\ny = concat(x, a, x) axis=1",
    "slice": "y = slice(x) axis=1 start=1 stop=3",
    "slice.rows": "y = slice(x) axis=2 start=2 stop=7",
    "channel_shuffle": "y = channel_shuffle(x) groups=2",
    "upsample": "y = upsample(x) factor=(3,2)",
    "upsample.rows": "y = upsample(x) factor=(8,1)",
    "pad": "y = pad(x) pad=(1,0,2,1) value=0.5",
    "pad.channels": "y = pad(x) pad=(1,2,0,1) value=(0.5,-0.5,0.0,1.0)",
    "pad.rows": "y = pad(x) pad=(1,0,0,0) value=(0.5,-0.5,0.0,1.0)",
    "pad.columns": "y = pad(x) pad=(0,0,0,2) value=(0.5,-0.5,0.0,1.0)",
    "flatten": "y = flatten(x)",
    "reshape": "y = reshape(x) shape=(-1,8,4,8)",
    "transpose": "y = transpose(x) perm=(0,2,3,1)",
}


def case(name: str) -> Graph:
    """The graph of a line in `LINES`, over an input of four 8x8 channels."""
    body = "\n".join(LINES[name].splitlines())
    return parse(f"graph {name.replace('.', '_')}(x: [N,4,8,8]) {{\n{body}\nreturn y\n}}")


def images(graph: Graph, *, count: int = 2, seed: int = 0) -> Array:
    """Normally distributed input."""
    shape = (count, *graph.shape(graph.inputs[0])[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantised(graph: Graph, scheme: Scheme) -> Graph:
    """`graph` with parameters from two batches of `images`."""
    return assign(graph, measure(graph, [images(graph), images(graph, seed=1)]), scheme)[0]


def checked(data: bytes) -> onnx.ModelProto:
    """The model, which must pass the checker with full shape inference."""
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    return model


def execute(data: bytes, *inputs: Array, optimized: str | None = None) -> list[Array]:
    """The outputs of a model in ONNX Runtime; the graph it really runs goes to the file `optimized`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = optimized
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))


def op_types(model: onnx.ModelProto) -> list[str]:
    """The op type of every node."""
    return [node.op_type for node in model.graph.node]
