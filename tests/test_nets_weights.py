"""Weights from files and noise: what fits goes in exactly, what does not is explained, nothing is executed."""

from __future__ import annotations

import os
import random
import re
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecnn.errors import InputError, UsageError
from edgecnn.nets import NETS, build_net, init_random, load_weights
from edgecnn.nets.random_weights import smooth_images
from edgecnn.pipeline.source import load_source


class Tiny(nn.Module):
    """A convolution, a norm and a linear layer: 10 tensors of state."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


def same_state(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(t, theirs[k]) for k, t in a.state_dict().items() if "num_batches" not in k)


def fails(net: nn.Module, path: Path, *, kind: type[InputError] = InputError) -> str:
    before = {k: t.clone() for k, t in net.state_dict().items()}
    with pytest.raises(kind) as caught:
        load_weights(net, path)
    assert all(torch.equal(t, before[k]) for k, t in net.state_dict().items()), "a refused file changed the net"
    return str(caught.value)


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + k: t for k, t in state.items()}


@pytest.mark.parametrize(
    "save",
    [
        lambda state, path: torch.save(state, path.with_suffix(".pth")),
        lambda state, path: torch.save(state, path.with_suffix(".pt"), _use_new_zipfile_serialization=False),
        lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path.with_suffix(".pth")),
        lambda state, path: torch.save({"model": prefixed(state, "module."), "lr": 0.1}, path.with_suffix(".pth")),
        lambda state, path: torch.save(prefixed(state, "_orig_mod.module."), path.with_suffix(".pth")),
        lambda state, path: torch.save(
            {k: t for k, t in state.items() if "num_batches" not in k}, path.with_suffix(".pth")
        ),
        lambda state, path: save_file(state, path.with_suffix(".safetensors")),
    ],
    ids=["pth", "old pt", "state_dict", "model, module.", "compiled", "before 1.0", "safetensors"],
)
def test_what_training_loops_save_is_loaded(save: object, tmp_path: Path) -> None:
    trained, net = Tiny(), Tiny()
    init_random(trained, 1, (3, 8, 8))
    assert not same_state(net, trained)
    save(trained.state_dict(), tmp_path / "w")
    (file,) = tmp_path.iterdir()
    loaded = load_weights(net.train(), str(file))
    assert same_state(net, trained)
    assert not net.training
    assert (loaded.kind, loaded.source, loaded.untrained) == ("file", str(file), False)
    assert loaded.sha256 is not None
    assert re.fullmatch(r"[0-9a-f]{64}", loaded.sha256)


def test_a_prefix_that_is_the_nets_own_stays(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Tiny()

    trained, net = Wrapped(), Wrapped()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    load_weights(net, tmp_path / "w.pth")
    assert same_state(net, trained)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    trained, net = Tiny().half(), Tiny()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    load_weights(net, tmp_path / "w.pth")
    assert net.conv.weight.dtype == torch.float32
    assert torch.equal(net.conv.weight, trained.conv.weight.float())


def test_weights_of_another_net_are_summarised(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)).state_dict(), path)
    assert fails(Tiny(), path) == (
        "InputError: the weights are not this net's\n"
        f"  at       {path}\n"
        "  expected the 9 tensors of Tiny\n"
        "  got      8 missing: conv.weight, conv.bias, bn.weight, bn.bias, and 4 more\n"
        "           4 unexpected: 0.weight, 0.bias, 1.weight, 1.bias\n"
        "  do       choose the net that these weights were trained for"
    )


def test_another_number_of_classes_names_the_option(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(Tiny(classes=5).state_dict(), path)
    assert fails(Tiny(), path) == (
        "InputError: the weights are not this net's\n"
        f"  at       {path}\n"
        "  expected the 9 tensors of Tiny\n"
        "  got      2 of another shape: fc.weight is 5x4, the net has 3x4, fc.bias is 5, the net has 3\n"
        "  do       build the net with as many classes as the weights have: --net-option num_classes=N"
    )


def test_another_width_points_to_the_options(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(Tiny(channels=6).state_dict(), path)
    message = fails(Tiny(), path)
    assert "7 of another shape: conv.weight is 6x3x3x3, the net has 4x3x3x3, conv.bias is 6, the net has 4" in message
    assert message.endswith(
        "and 3 more\n  do       choose the same variant of the net (its --net-option values) as in training"
    )


def test_one_tensor_missing_suggests_another_variant(tmp_path: Path) -> None:
    state = Tiny().state_dict()
    del state["conv.bias"]
    torch.save(state, tmp_path / "w.pth")
    message = fails(Tiny(), tmp_path / "w.pth")
    assert "got      1 missing: conv.bias\n" in message
    assert "do       choose the same variant of the net (its --net-option values) as in training" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad: float, tmp_path: Path) -> None:
    net, path = Tiny(), tmp_path / "w.safetensors"
    net.fc.weight.data[1, 2] = bad
    save_file(net.state_dict(), path)
    assert fails(Tiny(), path) == (
        "InputError: the weights of `fc.weight` are not finite\n"
        f"  at       {path}\n"
        "  expected numbers\n"
        "  got      NaN or infinity in 1 of 12 values\n"
        "  do       train again, or go back to a checkpoint from before it diverged"
    )


def test_a_pickle_that_needs_code_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "whole.pth"
    torch.save({"state_dict": Tiny().state_dict(), "args": types.SimpleNamespace(lr=1)}, path)
    message = fails(Tiny(), path)
    assert message.startswith(
        "InputError: the weight file needs code to load, which could do anything, so it was not loaded\n"
        f"  at       {path}\n"
        "  expected a file of tensors only: torch.save(net.state_dict(), ...) or .safetensors\n"
        "  got      `types.SimpleNamespace`\n"
        "  do       if you trust the file, convert it where the code it needs can be imported:\n"
    )
    # The advice is followed to the letter.
    script = "\n".join(line[13:] for line in message.splitlines() if line.startswith(" " * 13))
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    assert load_weights(Tiny(), tmp_path / "whole.safetensors").kind == "file"


class _Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Exploit()}, "evil.pth")
    assert "needs code to load" in fails(Tiny(), Path("evil.pth"))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.pth", b"", "the weight file is empty"),
        ("w.safetensors", b"", "the weight file is empty"),
        ("w.pth", b"<html>not found</html>", "begins with b'<html>not found<'"),
        ("w.safetensors", b"<html>not found</html>", "damaged or not what its name says"),
        ("w.onnx", b"1234", "`.onnx` is not a format of weights that can be read"),
    ],
)
def test_files_that_are_no_weights(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in fails(Tiny(), tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert f"there is no weight file `{tmp_path / 'no.pth'}`" in fails(Tiny(), tmp_path / "no.pth")
    assert f"`{tmp_path}` is not a file" in fails(Tiny(), tmp_path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "w.pth")
    message = fails(Tiny(), tmp_path / "w.pth")
    assert "the weight file holds no state_dict" in message
    assert "got      a dict with the keys epoch, loss" in message


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_every_truncation_is_an_input_error(suffix: str, tmp_path: Path) -> None:
    state, path = Tiny().state_dict(), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == ".pth")
    whole = path.read_bytes()
    drawn = random.Random(0)
    for length in [1, 4, 100, len(whole) - 1, *(drawn.randrange(1, len(whole)) for _ in range(25))]:
        path.write_bytes(whole[:length])
        # A bare pickle that ends inside the name of a class looks as if it named another.
        assert re.search("damaged|needs code" if suffix == ".pt" else "damaged", fails(Tiny(), path)), length


def test_random_weights_are_seeded_and_sane() -> None:
    entry = NETS["mobilenet_v3_small"]
    nets = [build_net(entry.name, num_classes=10, stem="small", width=0.5, seed=s) for s in (0, 1, 2)]
    marks = [
        load_weights(n, "random", entry=entry, input_shape=(3, 32, 32), seed=s)
        for n, s in zip(nets, (7, 7, 8), strict=True)
    ]
    assert marks[0].untrained
    assert marks[0].source == "random, seed 7"
    assert same_state(nets[0], nets[1]), "the weights before must not matter"
    assert not same_state(nets[0], nets[2])

    largest: dict[str, float] = {}
    for name, module in nets[0].named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, out, name=name: largest.__setitem__(name, float(out.abs().max())))
    with torch.no_grad():
        nets[0](smooth_images(16, (3, 32, 32), seed=99))
    # Batch norm scales by at most 1.4, so a value of 100 would be 70 standard deviations away.
    assert max(largest.values()) < 100
    assert min(v for k, v in largest.items() if not k.endswith("scale_activation")) > 0.01


def test_random_weights_leave_the_norms_as_they_were_set_up() -> None:
    net = build_net("mobilenet_v3_small", stem="small", width=0.25, num_classes=4)
    init_random(net, 0, (3, 32, 32))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.momentum, m.eps, m.training) for m in norms} == {(0.01, 1e-3, False)}


def test_random_weights_for_images_of_the_wrong_shape() -> None:
    net = build_net("vgg16_hetconv", p=64, seed=0)
    with pytest.raises(InputError) as caught:
        load_weights(net, "random", input_shape=(3, 64, 64))
    message = str(caught.value)
    assert message.startswith(
        "InputError: the net does not run on images of 3x64x64\n  at       HetConvVGG16\n  got      RuntimeError: mat1"
    )
    assert message.endswith("  do       give the shape the net is made for, such as --input 3x224x224")


def test_imagenet_needs_official_weights() -> None:
    with pytest.raises(UsageError) as caught:
        load_weights(Tiny(), "imagenet", entry=NETS["resnet20"])
    assert str(caught.value) == (
        "UsageError: there are no official ImageNet weights for resnet20\n"
        "  do       use --weights PATH, or --weights random --seed N (untrained: for speed only)"
    )


def test_names_of_old_densenet_files_are_read(tmp_path: Path) -> None:
    # As torchvision's official files have them, and as training wrappers prefix them.
    trained, net = build_net("densenet_bc100_k12", seed=1), build_net("densenet_bc100_k12", seed=2)
    old = {
        "module." + re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): t
        for k, t in trained.state_dict().items()
    }
    assert "module.features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    load_weights(net, tmp_path / "old.pth")
    assert same_state(net, trained)


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152"])
def test_official_weights_are_refused_where_they_would_load_and_be_wrong(name: str) -> None:
    with pytest.raises(UsageError, match=r"not for `stride_at=1x1`, though they would load"):
        load_source(name, weights="imagenet", options={"stride_at": "1x1"})
