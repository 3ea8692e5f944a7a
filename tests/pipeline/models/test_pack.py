"""Packing: what goes in comes out of smp and of us alike, and a check finds what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.bundle import read_spec
from pipeline.models.network import create
from pipeline.models.pack import check, pack

OPTIONS = {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}
CLASSES = ["background", "pond", "reed"]


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(3)
    return create("unet", "tu-test_resnet", 3, 3, OPTIONS).eval()


def do_pack(weights: Path, out: Path, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "arch": "unet",
        "encoder": "tu-test_resnet",
        "options": OPTIONS,
        "classes": CLASSES,
        "channels": ["r", "g", "b"],
        "normalisation": {"kind": "scale", "lo": 0, "hi": 255},
        "divisor": 8,
    }
    return pack(weights, out=out, **{**given, **changes})


def state(network: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in network.state_dict().items()}


@pytest.mark.parametrize(
    "wrapped",
    [
        state,
        lambda n: {
            "state_dict": state(n, "model.") | {"loss.weight": torch.ones(3)},
            "epoch": 7,
            "callbacks": {"x": [1]},
        },
        lambda n: {"state_dict": state(n, "net."), "optimizer_states": [{"lr": 0.1}]},
        lambda n: state(n, "module._orig_mod."),
    ],
    ids=["state dict", "lightning model", "lightning net", "parallel and compiled"],
)
def test_smp_reads_what_was_packed(network: Any, tmp_path: Path, wrapped: Callable[[Any], Any]) -> None:
    import segmentation_models_pytorch as smp

    torch.save(wrapped(network), tmp_path / "w.ckpt")
    bundle = do_pack(tmp_path / "w.ckpt", tmp_path / "ponds")
    theirs = smp.from_pretrained(str(bundle)).eval()
    x = torch.rand(1, 3, 32, 40)
    with torch.inference_mode():
        assert torch.equal(theirs(x), network(x))
    assert read_spec(bundle)[0].name == "ponds"
    assert json.loads((bundle / "config.json").read_text())["encoder_weights"] is None


def test_one_side_of_a_window_stands_for_all(network: Any, tmp_path: Path) -> None:
    torch.save(state(network), tmp_path / "w.pt")
    spec = json.loads((do_pack(tmp_path / "w.pt", tmp_path / "b", window=(256,)) / "seamline.json").read_text())
    assert spec["window"] == [256, 256]


def test_classes_from_a_table(network: Any, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    (tmp_path / "c.csv").write_text(
        "name,value,color,role\nland,3,#112233,background\npond,1,,\nreed,2,#00ff00,class\n"
    )
    spec, _ = read_spec(do_pack(tmp_path / "w.pt", tmp_path / "b", classes=tmp_path / "c.csv"))
    assert [(c.name, c.value, c.role) for c in spec.classes] == [
        ("land", 3, "background"),
        ("pond", 1, "class"),
        ("reed", 2, "class"),
    ]
    assert spec.classes[0].color == "#112233"
    assert spec.classes[1].color.startswith("#")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "vnet"}, "arch 'vnet' is not an smp architecture; choose one of .*unet"),
        ({"encoder": "resnet19"}, "smp cannot build Unet with .*resnet19"),
        ({"options": {"encoder_depth": 2, "decoder_channels": [8, 8]}}, r"weights do not fit Unet as configured: \d+ "),
        ({"classes": ["background", "pond"]}, r"of another shape \(segmentation_head"),
        (
            {"normalisation": {"kind": "constant", "mean": [0], "std": [1]}},
            "models pack: normalisation: mean and std have 1",
        ),
        ({"domain": "astrology"}, "models pack: domain: .*got 'astrology'"),
        ({"classes": "no.csv"}, r"cannot read the classes no\.csv"),
    ],
)
def test_what_does_not_fit_is_named(network: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=message):
        do_pack(tmp_path / "w.pt", tmp_path / "b", **changes)
    assert not (tmp_path / "b").exists()


def test_files_that_are_no_weights(network: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights at .*nothing\.pt"):
        do_pack(tmp_path / "nothing.pt", tmp_path / "b")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"w\.h5 is no weights file: known are \.safetensors"):
        do_pack(tmp_path / "w.h5", tmp_path / "b")
    torch.save([1, 2], tmp_path / "l.pt")
    with pytest.raises(ModelError, match="holds a list, not a state dict"):
        do_pack(tmp_path / "l.pt", tmp_path / "b")
    torch.save({"epoch": 3}, tmp_path / "e.pt")
    with pytest.raises(ModelError, match="holds no tensors; its keys are epoch"):
        do_pack(tmp_path / "e.pt", tmp_path / "b")
    (tmp_path / "c.csv").write_text("title\npond\n")
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="must have a header line with the column name"):
        do_pack(tmp_path / "w.pt", tmp_path / "b", classes=tmp_path / "c.csv")


# check ----------------------------------------------------------------------------------------------------


def test_check_measures_a_sound_bundle(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle()
    found = check(bundle)
    assert found.problems == ()
    assert (found.finite, found.in_range, found.divisor, found.smallest) == (True, True, 8, 8)
    assert found.n_bytes == sum(
        (bundle / f).stat().st_size for f in ("config.json", "model.safetensors", "seamline.json")
    )
    assert found.n_bytes > 4 * found.n_parameters > 0
    json.dumps(found.to_dict())


def test_check_finds_a_divisor_that_is_too_small(tmp_path: Path) -> None:
    # DeepLabV3+ needs sides that its output stride divides
    network = create("deeplabv3plus", "mobilenet_v2", 3, 3, {"decoder_channels": 8})
    torch.save(network.state_dict(), tmp_path / "w.pt")
    packing = {"arch": "deeplabv3plus", "encoder": "mobilenet_v2", "options": {"decoder_channels": 8}}
    small = check(do_pack(tmp_path / "w.pt", tmp_path / "small", divisor=8, **packing))
    assert "divisor 8: a window of 24 is refused; raise divisor" in small.problems
    right = check(do_pack(tmp_path / "w.pt", tmp_path / "right", divisor=16, **packing))
    assert right.problems == ()
    assert right.divisor_found == 16


def test_check_finds_weights_that_are_not_finite(network: Any, tmp_path: Path) -> None:
    broken = {k: v * float("nan") if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save(broken, tmp_path / "w.pt")
    found = check(do_pack(tmp_path / "w.pt", tmp_path / "b"))
    assert not found.finite
    assert any("not finite: the weights are broken" in p for p in found.problems)
