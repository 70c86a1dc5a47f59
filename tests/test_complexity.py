"""What `show` counts: by hand on small graphs, and against what the papers print."""

from __future__ import annotations

from functools import lru_cache
from math import inf

import pytest

from edgecnn.ir.complexity import Complexity, complexity_of
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.ir.receptive import Field, fields
from edgecnn.ir.text import parse
from edgecnn.nets import NETS, build_net
from edgecnn.nets.auxiliary import drop_auxiliary
from edgecnn.pipeline.describe import describe


def graph(shape: str, *lines: str) -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    return parse(f"graph g(x: [N,{shape}]) {{\n{body}\n}}")


@lru_cache(maxsize=4)
def net(name: str) -> Graph:
    module = build_net(name, seed=0)
    drop_auxiliary(module)
    return import_module(module, NETS[name].input_shape, name=name)


def test_a_layer_with_its_batch_norm_and_activation_by_hand() -> None:
    of = graph(
        "3,8,8",
        "a = conv(x, w[4,3,3,3], b[4]) stride=(2,2) pad=(1,1,1,1)",
        "n = batch_norm(a, g[4], s[4], m[4], v[4]) eps=1e-05",
        "y = clip(n) lo=0.0 hi=6.0",
        "return y",
    )
    (layer,) = complexity_of(of).layers
    assert (layer.type, layer.form) == ("Conv 3x3", "/2 BN ReLU6")
    assert (layer.weights, layer.biases, layer.batch_norm_params, layer.params) == (108, 4, 8, 120)
    assert (layer.macs, layer.operations) == (108 * 16, 216 * 16)
    assert (layer.read, layer.written) == (3 * 64, 4 * 16)
    assert layer.moved == 192 + 64 + 108 + 4
    assert layer.intensity == 216 * 16 / 368


def test_what_is_read_twice_is_not_fused() -> None:
    of = graph("4,4,4", "a = conv(x, w[4,4,1,1])", "r = clip(a) lo=0.0 hi=None", "y = add(a, r)", "return y")
    assert [layer.type for layer in complexity_of(of).layers] == ["Conv 1x1", "Activation", "Element-wise"]


def test_peak_of_a_residual_block_by_hand() -> None:
    of = graph(
        "8,4,4",  # 128 elements
        "a = conv(x, w[16,8,1,1])",  # 256
        "b = conv(a, v[8,16,1,1])",  # 128
        "y = add(b, x)",
        "return y",
    )
    found = complexity_of(of)
    # At `b`: x, which the sum still needs, a and b. The weights are no activations.
    assert (found.peak, found.peak_at) == (128 + 256 + 128, "b")
    assert found.activations == 256 + 128 + 128


def test_shared_weights_count_once() -> None:
    of = graph("4,4,4", "a = conv(x, w[4,4,1,1])", "y = conv(a, w)", "return y")
    found = complexity_of(of)
    assert found.total("weights") == 16
    assert found.total("macs") == 2 * 16 * 16


@pytest.mark.parametrize(
    ("line", "size", "stride"),
    [
        ("y = conv(x, w[4,4,3,3]) dilation=(4,4)", (9, 9), (1, 1)),
        ("y = conv(x, w[4,4,1,7]) stride=(1,2)", (1, 7), (1, 2)),
        ("y = max_pool(x) kernel=(3,3) stride=(2,2)", (3, 3), (2, 2)),
        ("y = global_pool(x)", (inf, inf), (1, 1)),
        ("y = flatten(x)", (inf, inf), (1, 1)),
    ],
)
def test_receptive_field_of_one_op(line: str, size: tuple[float, float], stride: tuple[float, float]) -> None:
    assert fields(graph("4,12,12", line, "return y"))["y"] == Field(size, stride)


def test_branches_count_by_the_largest_and_gates_do_not() -> None:
    of = graph(
        "4,12,12",
        "a = conv(x, w[4,4,3,3]) pad=(1,1,1,1)",
        "b = conv(x, v[4,4,5,5]) pad=(2,2,2,2)",
        "c = concat(a, b) axis=1",
        "g = global_pool(c)",
        "y = mul(c, g)",
        "return y",
    )
    assert fields(of)["y"] == Field((5, 5), (1, 1))


LITERATURE = {
    # Araujo et al. 2019, Table 1: the receptive field and effective stride of the last maps.
    "alexnet": (195, 32),  # after the last pool
    "vgg16_cifar": (212, 32),  # the convolutions and pools of VGG-16
    "inception_v3": (1311, 32),
    "mobilenet_v1": (315, 32),
}


@pytest.mark.parametrize("name", LITERATURE)
def test_receptive_fields_of_the_literature(name: str) -> None:
    maps = [layer.field for layer in complexity_of(net(name)).layers if not layer.field.whole]
    assert (maps[-1].size[0], maps[-1].stride[0]) == LITERATURE[name]


def test_the_table_of_the_mobilenet_paper() -> None:
    found: Complexity = complexity_of(net("mobilenet_v1"))
    shares = {s.type: (round(100 * s.macs_share, 2), round(100 * s.weights_share, 2)) for s in found.by_type()}
    # Howard et al. 2017, Table 2. It prints 1.19 % for the 3x3 convolution, whose digits are transposed: with that,
    # its column adds up to 99.29 %.
    assert shares["Conv 1x1"] == (94.86, 74.59)
    assert shares["Conv DW 3x3"] == (3.06, 1.06)
    assert shares["Conv 3x3"] == (1.91, 0.02)
    assert shares["Fully connected"] == (0.18, 24.33)
    assert found.total("weights") == 4_209_088


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "densenet_bc100_k12", "resnet18_deform"])
def test_layers_add_up_to_the_net(name: str) -> None:
    module = build_net(name, seed=0)
    drop_auxiliary(module)
    found = complexity_of(net(name))
    assert found.total("params") == sum(p.numel() for p in module.parameters())
    assert found.total("macs") == NETS[name].macs


def test_zeros_of_heterogeneous_convolutions_execute_but_are_no_parameters() -> None:
    found = describe("vgg16_hetconv", cpu="x86")
    assert found.complexity.total("params") == found.params == NETS["vgg16_hetconv"].params
    assert found.macs == NETS["vgg16_hetconv"].macs
    assert found.executed["tflite-int8"] == found.macs
    dense = describe("vgg16_hetconv", cpu="armv8").executed
    assert dense["tflite-fp32"] == found.macs


def test_what_only_trains_is_told() -> None:
    found = describe("googlenet")
    assert found.params + found.facts["params_of_training_only"] == NETS["googlenet"].params


def test_a_targets_graph_has_no_batch_norm_left() -> None:
    found = describe("mobilenet_v2", input_shape=(3, 64, 64), target="tflite-int8", cpu="x86")
    assert found.complexity.total("batch_norm_params") == 0
    assert found.facts["target"] == "tflite-int8"
