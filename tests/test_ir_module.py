"""The graph as a module: it computes what the reference does, trains as PyTorch trains, and gives the graph back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import CONV_BN_RELU, RESIDUAL, TEXTS, assert_same_graph, graphs, image_batch, with_random_q
from torch import nn

from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse


def train_a_little(module: GraphModule, graph: Graph) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module.train()
    for seed in range(3):
        optimizer.zero_grad()
        out = module(torch.from_numpy(image_batch(graph, n=4, seed=seed)))
        out.square().mean().backward()
        optimizer.step()
    module.eval()


@given(graphs(head=True))
def test_a_trained_module_is_the_reference_of_its_graph(graph: Graph) -> None:
    module = GraphModule(graph)
    train_a_little(module, graph)
    trained = module.to_graph()
    x = image_batch(graph, n=3, seed=9)
    with torch.no_grad():
        from_module = module(torch.from_numpy(x)).numpy()
    # The same PyTorch functions on the same numbers: equal to the bit.
    assert np.array_equal(run(trained, x)[0], from_module)
    assert not np.array_equal(trained.const("fcw"), graph.const("fcw"))


@pytest.mark.parametrize("name", TEXTS)
def test_an_untrained_module_gives_its_graph_back(name: str) -> None:
    graph = with_random_q(parse(TEXTS[name]))
    assert_same_graph(GraphModule(graph).to_graph(), graph)


def test_training_does_not_touch_the_graph_it_came_from() -> None:
    graph = parse(CONV_BN_RELU)
    before = {v.name: v.data.copy() for v in graph.values.values() if v.data is not None}
    train_a_little(GraphModule(graph), graph)
    assert all(np.array_equal(graph.const(name), data) for name, data in before.items())


def test_weights_are_parameters_and_statistics_are_buffers() -> None:
    module = GraphModule(parse(CONV_BN_RELU.replace("r = clip(b)", "k = mul(b, factor[1,8,1,1])\n r = clip(k)")))
    assert [n for n, _ in module.named_parameters()] == ["const/w", "const/gamma", "const/beta", "const/wl", "const/bl"]
    assert [n for n, _ in module.named_buffers()] == ["const/mean", "const/var", "const/factor"]


def test_running_statistics_are_updated_as_batch_norm_does() -> None:
    graph = parse(
        "graph g(x: [N,4,6,6]) {\n  y = batch_norm(x, g[4], b[4], m[4], v[4]) eps=0.001\n  return y\n}", seed=3
    )
    module = GraphModule(graph, momentum=0.2)
    theirs = nn.BatchNorm2d(4, eps=0.001, momentum=0.2)
    state = {"weight": "g", "bias": "b", "running_mean": "m", "running_var": "v"}
    theirs.load_state_dict({k: torch.tensor(graph.const(n)) for k, n in state.items()}, strict=False)
    x = torch.from_numpy(image_batch(graph, n=5))
    for mine, other in ((module.train(), theirs.train()), (module.eval(), theirs.eval())):
        assert torch.equal(mine(x), other(x))
    assert torch.equal(module.constant("m"), theirs.running_mean)
    assert torch.equal(module.constant("v"), theirs.running_var)


def test_a_shared_constant_is_one_parameter() -> None:
    graph = parse(
        """graph g(x: [N,4,5,5]) {
          a = conv(x, w[4,4,1,1]) clip=(0.0,None)
          y = conv(a, w)
          return y
        }"""
    )
    module = GraphModule(graph)
    assert len(list(module.parameters())) == 1
    train_a_little(module, graph)
    x = image_batch(graph)
    with torch.no_grad():
        assert np.array_equal(run(module.to_graph(), x)[0], module(torch.from_numpy(x)).numpy())


def test_names_of_methods_and_dots_are_legal() -> None:
    graph = parse("graph g(x: [N,4,5,5]) {\n  y = conv(x, train[4,4,1,1], a.b.half[4])\n  return y\n}")
    module = GraphModule(graph)
    assert torch.equal(module.constant("a.b.half"), torch.tensor(graph.const("a.b.half")))
    restored = GraphModule(graph)
    restored.load_state_dict(module.state_dict())


def test_several_inputs_and_outputs() -> None:
    graph = parse("graph g(a: [N,4], b: [N,4]) {\n  s = add(a, b)\n  y = mul(s, a)\n  return s, y\n}")
    a, b = torch.arange(8.0).view(2, 4), torch.ones(2, 4)
    s, y = GraphModule(graph)(a, b)
    assert torch.equal(s, a + b)
    assert torch.equal(y, (a + b) * a)


def test_gradients_are_those_of_pytorch() -> None:
    graph = parse(RESIDUAL)
    x = torch.from_numpy(image_batch(graph))
    module = GraphModule(graph)
    module(x).square().sum().backward()

    w = {n: torch.tensor(graph.const(n), requires_grad=True) for n in ("wa", "ba", "wb", "bb", "wy", "by")}
    a = nn.functional.conv2d(x, w["wa"], w["ba"], padding=1).relu()
    s = (nn.functional.conv2d(a, w["wb"], w["bb"], padding=1) + x).relu()
    nn.functional.conv2d(s, w["wy"], w["by"]).square().sum().backward()
    for name, tensor in w.items():
        assert tensor.grad is not None
        # The same sums, perhaps in another order: a few units in the last place of the largest.
        bound = 1e-5 * float(tensor.grad.abs().max())
        assert torch.allclose(module.constant(name).grad, tensor.grad, rtol=0, atol=bound), name
