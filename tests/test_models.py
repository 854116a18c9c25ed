"""Networks by name: built as the library builds them, found when misspelt, and rebuilt elsewhere from a recipe."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from spliteasy.errors import ModelError
from spliteasy.models import DigitsCNN, Recipe, build, input_size_of, list_models, load_model, recipe_of


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 25_557_032),
        ("resnet152", 60_192_808),
        ("densenet121", 7_978_856),
        ("densenet201", 20_013_928),
        ("inception_v3", 23_834_568),
        ("timm/inception_resnet_v2", 55_843_464),
        ("vgg11", 132_863_336),
        ("vgg16", 138_357_544),
        ("digits_cnn", 33_642),
    ],
)
def test_the_networks_of_the_paper_have_their_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = load_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert name in list_models() and model.training


def test_every_torchvision_classifier_is_listed_and_timm_is_beside_them() -> None:
    names = list_models()
    assert len(names) == len(set(names))
    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(names)
    assert list_models("resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]
    assert "timm/inception_resnet_v2" in list_models("timm/inception*")
    assert list_models("*inception_v3") == ["inception_v3", "timm/inception_v3"]
    assert list_models("nothing*") == []


def test_random_numbers_are_drawn_as_the_library_draws_them() -> None:
    torch.manual_seed(7)
    ours, drawn = load_model("resnet18", num_classes=5), torch.rand(1)
    torch.manual_seed(7)
    theirs = torchvision.models.resnet18(num_classes=5)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_inception_has_no_auxiliary_head_and_does_not_warn(name: str) -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("error")
        model = load_model(name, num_classes=4)
        output = model(torch.empty(2, 3, 299, 299))
    assert isinstance(output, torch.Tensor) and output.shape == (2, 4) and model.training
    assert not any("aux" in key.lower() for key in model.state_dict())
    with pytest.raises(ModelError, match="auxiliary"):
        load_model(name, aux_logits=True)


def test_digits_cnn_takes_digits() -> None:
    model = load_model("digits_cnn", num_classes=3, dropout=0.5)
    assert isinstance(model, DigitsCNN) and model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert model.dropout.p == 0.5 and next(name for name, _ in model.named_children()) == "conv1"


def test_a_module_of_your_own_is_returned_as_it_is() -> None:
    module = nn.Linear(2, 2)
    assert load_model(module) is module and recipe_of(module) is None
    with pytest.raises(ModelError, match="as it is"):
        load_model(module, num_classes=3)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("ResNet50", "'resnet50'"),
        ("resnet-50", "'resnet50'"),
        ("resnet5", "'resnet50'"),
        ("inception_resnet_v2", "'timm/inception_resnet_v2'"),
        ("InceptionResNetV2", "'timm/inception_resnet_v2'"),
        ("InceptionV3", "'inception_v3'"),
        ("VGG", "'vgg1"),
        ("digits", "'digits_cnn'"),
        ("timm/inception_resnet_v3", "'timm/inception_resnet_v2'"),
        ("zzzzzz", "list_models()"),
    ],
)
def test_a_wrong_name_suggests_near_ones(wrong: str, meant: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(wrong)
    assert repr(wrong) in str(caught.value) and meant in str(caught.value)
    with pytest.raises(ModelError):
        input_size_of(wrong)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resnet18", {"weights": "IMAGENET1K_V7"}, "IMAGENET1K_V1"),
        ("resnet18", {"weights": 3}, "IMAGENET1K_V1"),
        ("digits_cnn", {"weights": "DEFAULT"}, "no pretrained weights"),
        ("timm/resnet18", {"weights": "a1_in2k"}, "'a1_in1k'"),
        ("timm/resnet18", {"weights": 3}, "pretrained tag"),
        ("timm/hf-hub:timm/resnet18.a1_in1k", {}, "no network"),
        ("resnet18", {"num_classes": 0}, "num_classes"),
        ("resnet18", {"num_classes": "10"}, "num_classes"),
        ("resnet18", {"depth": 3}, "depth=3"),
        ("digits_cnn", {"depth": 3}, "depth=3"),
        ("timm/resnet18", {"depth": 3}, "depth=3"),
        ("timm/resnet18", {"pretrained": True}, "weights="),
        ("timm/resnet18", {"checkpoint_path": "weights.pth"}, "weights="),
        ("no_such_package.module:factory", {}, "no_such_package"),
        ("collections:OrderedDikt", {}, "'OrderedDict'"),
        ("collections:OrderedDict", {}, "must return an nn.Module"),
        ("collections:", {}, "found nothing"),
        (5, {}, "int"),
    ],
)
def test_what_cannot_be_built_says_why(name: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(name, **arguments)
    assert said in str(caught.value)


def fake_weights(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: state)


@pytest.mark.parametrize("weights", ["DEFAULT", True, "ResNet18_Weights.IMAGENET1K_V1"])
def test_pretrained_weights_stay_but_for_the_head(weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torchvision.models.resnet18().state_dict()
    fake_weights(monkeypatch, source)
    whole = load_model("resnet18", weights=weights)
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in source.items())
    seven = load_model("resnet18", num_classes=7, weights=weights)
    assert all(torch.equal(seven.state_dict()[name], value) for name, value in source.items() if "fc." not in name)
    assert seven.get_submodule("fc").weight.shape == (7, 512)
    assert recipe_of(seven) == Recipe("resnet18", {"num_classes": 7})


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
        *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
        *("swin_v2_t", "vgg11_bn", "vit_b_16"),
    ],
)
def test_the_head_of_every_family_is_replaced_as_a_new_network_has_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    auxiliary = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    chosen = {"vit_b_16": "IMAGENET1K_SWAG_E2E_V1"}.get(name, "DEFAULT")
    larger = {"image_size": 384} if name == "vit_b_16" else {}  # these weights are for larger images
    with torch.device("meta"):
        fake_weights(monkeypatch, torchvision.models.get_model(name, **auxiliary, **larger).state_dict())
        loaded = load_model(name, num_classes=7, weights=chosen)
        fresh = load_model(name, num_classes=7, **larger)
        recipe = recipe_of(loaded)
        assert recipe is not None
        rebuilt = build(recipe)
    assert shapes(loaded) == shapes(fresh) == shapes(rebuilt)
    assert getattr(loaded, "transform_input", None) == getattr(rebuilt, "transform_input", None)


def test_weights_that_cannot_be_fetched_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", unreachable)
    with pytest.raises(ModelError, match=r"no route to host.*without weights="):
        load_model("resnet18", weights="DEFAULT")


def test_timm_is_asked_for_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    asked: list[tuple[str, dict[str, Any]]] = []

    def create(name: str, **arguments: Any) -> nn.Module:
        asked.append((name, arguments))
        return nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", create)
    tagged = load_model("timm/resnet18", num_classes=3, weights="a1_in1k")
    load_model("timm/resnet18", weights=True)
    load_model("timm/resnet18", weights=False)
    assert asked == [
        ("resnet18.a1_in1k", {"pretrained": True, "num_classes": 3}),
        ("resnet18", {"pretrained": True}),
        ("resnet18", {"pretrained": False}),
    ]
    assert recipe_of(tagged) == Recipe("timm/resnet18.a1_in1k", {"num_classes": 3})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"num_classes": 4, "replace_stride_with_dilation": (False, False, False)}),
        ("digits_cnn", {"dropout": 0.1}),
        ("googlenet", {}),
        ("timm/resnet18", {"num_classes": 4, "drop_rate": 0.5}),
    ],
)
def test_a_recipe_survives_json_and_builds_the_same_architecture(name: str, arguments: dict[str, Any]) -> None:
    model = load_model(name, **arguments)
    recipe = recipe_of(model)
    assert isinstance(recipe, Recipe) and vars(model)["spliteasy_recipe"] == recipe
    received = Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe))))
    assert received == recipe and hash(received) == hash(recipe)
    before = torch.random.get_rng_state()
    rebuilt = build(received)
    assert torch.equal(before, torch.random.get_rng_state())
    assert repr(rebuilt) == repr(model) and shapes(rebuilt) == shapes(model) and recipe_of(rebuilt) == recipe


def test_a_model_changed_after_loading_has_no_recipe_but_a_trained_one_has() -> None:
    model = load_model("digits_cnn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert recipe_of(model.eval().to(torch.float64)) is not None
    model.get_submodule("dropout").p = 0.9  # type: ignore[assignment]
    assert recipe_of(model) is None
    model = load_model("digits_cnn")
    model.get_submodule("relu1").forward = torch.tanh
    assert recipe_of(model) is None


def test_arguments_that_json_cannot_hold_give_a_model_without_a_recipe() -> None:
    assert recipe_of(load_model("resnet18", norm_layer=nn.InstanceNorm2d)) is None
    with pytest.raises(ModelError, match="JSON"):
        Recipe("resnet18", {"norm_layer": nn.InstanceNorm2d})
    with pytest.raises(ModelError, match="JSON"):
        Recipe("digits_cnn", {"dropout": float("nan")})


@pytest.mark.parametrize(
    "key", ["weights", "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"]
)
def test_a_recipe_never_loads_weights(key: str) -> None:
    with pytest.raises(ModelError, match=key):
        Recipe("timm/resnet18", {key: "anything"})


def test_a_factory_is_called_here_and_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_a_test.py").write_text(
        "from torch import nn\ndef net(num_classes=2, width=3):\n    return nn.Linear(width, num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("networks_of_a_test:net", num_classes=4, width=5)
    recipe = recipe_of(model)
    assert recipe == Recipe("networks_of_a_test:net", {"num_classes": 4, "width": 5})
    with pytest.raises(ModelError, match="--allow networks_of_a_test:net"):
        build(recipe)
    assert shapes(build(recipe, allow={"networks_of_a_test:net"})) == shapes(model)
    with pytest.raises(ModelError, match="'net'"):
        load_model("networks_of_a_test:nett")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet50", (3, 224, 224)),
        ("googlenet", (3, 224, 224)),
        ("inception_v3", (3, 299, 299)),
        ("timm/inception_resnet_v2", (3, 299, 299)),
        ("timm/test_vit", (3, 160, 160)),
        ("digits_cnn", (1, 8, 8)),
    ],
)
def test_the_input_a_network_is_made_for(name: str, size: tuple[int, int, int]) -> None:
    assert input_size_of(name) == size
    with torch.device("meta"):
        assert input_size_of(load_model(name)) == size


def test_the_input_of_modules_and_of_changed_networks() -> None:
    import timm

    assert input_size_of(nn.Linear(2, 2)) == (3, 224, 224)
    assert input_size_of(DigitsCNN()) == (1, 8, 8)
    with torch.device("meta"):
        assert input_size_of(timm.create_model("test_vit")) == (3, 160, 160)
        assert input_size_of(load_model("vit_b_16", image_size=64)) == (3, 64, 64)
        assert input_size_of(load_model("timm/test_vit", img_size=(64, 96), in_chans=1)) == (1, 64, 96)
