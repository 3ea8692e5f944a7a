"""Bundles: found, read, held against their own description; every disagreement is an error with its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models import locate
from pipeline.models.bundle import (
    bundle_digest,
    bundle_files,
    describe,
    load_model,
    read_spec,
    resolve_bundle,
    shipped,
)
from pipeline.models.normalise import Constants
from pipeline.store import Store

MakeBundle = Callable[..., Path]
CONSTANTS = Constants((100.0,) * 3, (50.0,) * 3)


def load(*bundles: Path, **options: Any) -> Any:
    given = {"device": "cpu", "precision": "fp32", "constants": CONSTANTS, "ndim": 2, **options}
    return load_model([str(b) for b in bundles], **given)


def window(n: int = 2, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randint(
        0, 256, (n, 3, side, side + 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return pixels, torch.ones((n, side, side + 8), dtype=torch.bool)


def test_scores_are_those_of_smp_itself(make_bundle: MakeBundle) -> None:
    import segmentation_models_pytorch as smp

    bundle = make_bundle()
    pixels, valid = window()
    theirs = smp.from_pretrained(str(bundle)).eval()
    with torch.inference_mode():
        expected = torch.softmax(theirs((pixels.float() - 100) / 50), 1)
    scores = load(bundle).scores(pixels, valid)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_sigmoid_and_temperature(make_bundle: MakeBundle) -> None:
    plain = load(make_bundle("plain", n_classes=4, activation="sigmoid")).scores(*window())
    cooler = load(make_bundle("cool", n_classes=4, activation="sigmoid", temperature=2.0)).scores(*window())
    assert plain.shape[1] == 3
    torch.testing.assert_close(torch.logit(cooler), torch.logit(plain) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_float32_scores_near_those_of_full(make_bundle: MakeBundle, precision: str) -> None:
    bundle = make_bundle()
    full, half = load(bundle).scores(*window()), load(bundle, precision=precision).scores(*window())
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, rtol=0, atol=0.05)


def test_invalid_pixels_do_not_reach_the_net(make_bundle: MakeBundle) -> None:
    model = load(make_bundle())
    pixels, valid = window()
    valid[:, 5:9, 3:20] = False
    spoiled = pixels.float()
    spoiled[:, :, 5:9, 3:20] = torch.nan
    assert torch.equal(model.scores(pixels.float(), valid), model.scores(spoiled, valid))


def test_constants_for_another_number_of_channels_are_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(ModelError, match="tiny reads 3 channels, but there are constants for 2"):
        load(make_bundle(), constants=Constants((0.0, 0.0), (1.0, 1.0)))


def test_classes_that_do_not_match_the_weights(make_bundle: MakeBundle, edit_spec: Callable[..., None]) -> None:
    bundle = make_bundle()
    edit_spec(bundle, classes=["background", "a"])
    with pytest.raises(
        ModelError, match=r"weights give 3 scores a pixel, .* 2 classes \(background, a\) means 2; correct"
    ):
        load(bundle)


def test_channels_that_do_not_match_the_weights(make_bundle: MakeBundle, edit_spec: Callable[..., None]) -> None:
    bundle = make_bundle()
    edit_spec(bundle, channels=["r", "g"], normalisation={"kind": "zscore"})
    with pytest.raises(ModelError, match=r"weights read 3 channels, seamline\.json lists 2 \(r, g\); correct channels"):
        load(bundle)


def test_weights_of_another_network(make_bundle: MakeBundle) -> None:
    bundle, other = make_bundle(), make_bundle("other", n_classes=4)
    shutil.copy(other / "model.safetensors", bundle / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"2 of another shape \(segmentation_head.*is \(4, 8, 3, 3\), not \(3, 8, 3, 3\)"
    ):
        load(bundle)


def test_truncated_weights(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    file = bundle / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors, it may be truncated"):
        load(bundle)
    file.unlink()
    (bundle / "model.pt").write_bytes(b"PK\x03\x04 not a torch file")
    with pytest.raises(ModelError, match=r"model\.pt cannot be read as torch weights, it may be truncated"):
        load(bundle)


def test_torch_weights_are_read_like_safetensors(make_bundle: MakeBundle) -> None:
    from safetensors.torch import load_file

    bundle = make_bundle()
    expected = load(bundle).scores(*window())
    torch.save(load_file(bundle / "model.safetensors"), bundle / "model.pth")
    (bundle / "model.safetensors").unlink()
    assert torch.equal(load(bundle).scores(*window()), expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Unet", "Pickle", r"_model_class 'Pickle' is not an smp architecture; known are .*Unet"),
        ("tu-test_resnet", "resnet-9000", r"smp cannot build Unet with .*resnet-9000"),
        ('"encoder_depth"', '"encoder_width"', "smp cannot build Unet .*encoder_width"),
        ("{", "[", r"config\.json is not valid JSON"),
    ],
)
def test_broken_configs(make_bundle: MakeBundle, old: str, new: str, message: str) -> None:
    bundle = make_bundle()
    config = bundle / "config.json"
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(ModelError, match=message):
        load(bundle)


def test_no_cuda_here_is_said(make_bundle: MakeBundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ModelError, match="device cuda: torch sees no CUDA device here; use --device cpu"):
        load(make_bundle(), device="cuda")
    with pytest.raises(ModelError, match="device 'abacus'"):
        load(make_bundle(), device="abacus")


# without seamline.json ------------------------------------------------------------------------------------


def test_without_a_spec_uint8_runs_on_defaults_that_are_told(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "seamline.json").unlink()
    spec, notes = read_spec(bundle, "uint8")
    assert [c.name for c in spec.classes] == ["background", "class_1", "class_2"]
    assert spec.channels == ("r", "g", "b")
    assert notes[0] == "tiny has no seamline.json; assumed normalisation: 0..255 to 0..1"
    assert any("assumed classes: background, class_1, class_2 (softmax)" in n for n in notes)
    assert load(bundle).spec == spec


def test_without_a_spec_a_net_made_for_imagenet_gets_its_constants(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "seamline.json").unlink()
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "encoder_weights": "imagenet"}))
    spec, notes = read_spec(bundle, "uint8")
    assert spec.normalisation.kind == "constant"
    assert spec.normalisation.mean == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])
    assert "ImageNet" in notes[0]


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_without_a_spec_other_dtypes_are_refused(make_bundle: MakeBundle, dtype: str) -> None:
    bundle = make_bundle()
    (bundle / "seamline.json").unlink()
    with pytest.raises(ModelError, match=f"normalisation is unknown, and pixels of {dtype} have no usual one"):
        read_spec(bundle, dtype)


# places ---------------------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_named(tmp_path: Path, make_bundle: MakeBundle) -> None:
    with pytest.raises(ModelError, match=r"no bundle at nucleii, and no shipped model of that name; shipped are: "):
        resolve_bundle("nucleii")
    with pytest.raises(ModelError, match=r"is no bundle: it holds none of model\.safetensors"):
        resolve_bundle(tmp_path)
    weights = make_bundle() / "model.safetensors"
    with pytest.raises(ModelError, match=r"is a file, not a bundle: make one of it with `seamline models pack"):
        resolve_bundle(weights)
    (weights.parent / "config.json").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors needs a config\.json beside it"):
        resolve_bundle(weights.parent)


def test_a_shipped_name_wins_over_a_folder_that_is_no_bundle(
    tmp_path: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make_bundle("ours")
    monkeypatch.setattr(locate, "shipped", lambda: [ours])
    monkeypatch.chdir(tmp_path / "ours")
    assert resolve_bundle("ours") == ours
    (tmp_path / "ours" / "ours").mkdir()
    assert resolve_bundle("ours") == ours


def test_the_digest_follows_what_decides_the_scores_only(
    make_bundle: MakeBundle, edit_spec: Callable[..., None]
) -> None:
    bundle = make_bundle()
    before = bundle_digest(bundle)
    (bundle / "README.md").write_text("other words")
    assert bundle_digest(bundle) == before
    assert {f.name for f in bundle_files(bundle)} == {"config.json", "model.safetensors", "seamline.json"}
    edit_spec(bundle, temperature=2.0)
    assert bundle_digest(bundle) != before
    assert bundle_digest(make_bundle("again", seed=1)) != bundle_digest(make_bundle("again", seed=2))


def test_a_bundle_in_a_bucket_is_copied_once_and_again_when_it_changes(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, cache = make_bundle(), tmp_path / "cache"
    stored = {f.name: f.read_bytes() for f in [*bundle_files(bundle), bundle / "README.md"]}
    remote = FakeBucket(stored)
    monkeypatch.setattr(locate, "Store", lambda uri: remote if uri.startswith("s3://") else Store(uri))
    copy = resolve_bundle("s3://models/tiny", cache)
    assert copy.name == "tiny"
    assert bundle_digest(copy) == bundle_digest(bundle)
    fetched = len(remote.fetched)
    assert resolve_bundle("s3://models/tiny/", cache).name == "tiny"
    assert resolve_bundle("s3://models/tiny", cache) == copy
    assert "README.md" not in remote.fetched
    assert fetched == 3
    stored["seamline.json"] = stored["seamline.json"].replace(b'"tiny"', b'"tony"')
    assert read_spec(resolve_bundle("s3://models/tiny", cache))[0].name == "tony"
    stored.clear()
    with pytest.raises(ModelError, match=r"no bundle at s3://models/tiny: none of config\.json"):
        resolve_bundle("s3://models/tiny", cache)


class FakeBucket:
    """The part of Store that is used to fetch a bundle, over a dict."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.fetched: list[str] = []

    def list(self) -> Any:
        from hashlib import md5

        from pipeline.store import Entry

        return [Entry(k, len(v), md5(v).hexdigest()) for k, v in self.objects.items()]

    def get(self, key: str) -> bytes:
        self.fetched.append(key)
        return self.objects[key]


# what ships -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", shipped(), ids=lambda p: p.name)
def test_shipped_bundles_are_small_scored_and_load(bundle: Path) -> None:
    assert sum(f.stat().st_size for f in bundle.iterdir()) < 8_000_000
    about = describe(bundle)
    assert about["notes"] == []
    assert about["scores"]["split"] == "test"
    assert about["scores"]["n_images"] > 0
    assert f"{100 * about['scores']['mean_iou']:.1f}" in (bundle / "README.md").read_text()
    assert resolve_bundle(bundle.name) == bundle
    model = load(bundle)
    scores = model.scores(*window(1, model.spec.divisor * 4))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]))
