"""Models fit their weights, and every file that does not is one clear error."""

from __future__ import annotations

import logging
import pickle

import pytest

from edgeq.errors import InputError, ModelError
from edgeq.models.names import zoo_names

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from edgeq.models.centernet import CenterNet  # noqa: E402
from edgeq.models.zoo import load_model, read_metadata, read_weights, shipped_weights  # noqa: E402


def tiny_centernet(classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CenterNet(18, classes, widths=(4, 6, 8, 10), deconv_channels=(7, 5, 3), head_channels=9).eval()


@pytest.fixture
def tiny():
    return tiny_centernet()


def outputs_of(model):
    with torch.inference_mode():
        return torch.cat([output.flatten() for output in model(torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64))])


class Exploit:
    """Calling this on load would be the end of the test."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_all_sizes_follow_from_the_weights(tiny, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tiny.state_dict(), path)
    else:
        torch.save(tiny.state_dict(), path)
    model = load_model("centernet_resnet18", path)
    assert not model.training
    assert [tuple(output.shape) for output in model(torch.zeros(1, 3, 64, 96))] == [
        (1, 2, 16, 24),
        (1, 2, 16, 24),
        (1, 2, 16, 24),
    ]
    assert torch.equal(outputs_of(model), outputs_of(tiny))


def test_classifiers_have_the_classes_of_their_weights(tmp_path):
    import torchvision

    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "w.pth")
    assert load_model("resnet18", tmp_path / "w.pth")(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module.", "both"])
def test_checkpoints_of_training_scripts_are_unwrapped(tiny, tmp_path, wrap):
    state = tiny.state_dict()
    if wrap in ("module.", "both"):
        state = {f"module.{key}": value for key, value in state.items()}
    if wrap in ("state_dict", "model", "both"):
        state = {"model" if wrap == "model" else "state_dict": state, "epoch": 140, "optimizer": {"state": {}}}
    torch.save(state, tmp_path / "w.pth")
    assert torch.equal(outputs_of(load_model("centernet_resnet18", tmp_path / "w.pth")), outputs_of(tiny))


def test_half_precision_weights_become_float32(tiny, tmp_path):
    save_file({key: value.half() for key, value in tiny.state_dict().items()}, tmp_path / "w.safetensors")
    model = load_model("centernet_resnet18", tmp_path / "w.safetensors")
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert torch.equal(model.state_dict()["hm.2.weight"], tiny.state_dict()["hm.2.weight"].half().float())


def test_old_checkpoints_without_batch_counters_load(tiny, tmp_path):
    state = {key: value for key, value in tiny.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    assert torch.equal(outputs_of(load_model("centernet_resnet18", tmp_path / "w.pth")), outputs_of(tiny))


def test_published_key_names_load_as_they_are(shared_data):
    path = shared_data / "weights" / "centernet_r18_bccd.safetensors"
    model = load_model("centernet_resnet18", path)
    assert [tuple(output.shape[1:]) for output in model(torch.zeros(1, 3, 64, 96))] == [
        (3, 16, 24),
        (2, 16, 24),
        (2, 16, 24),
    ]
    assert torch.equal(model.state_dict()["hm.2.bias"], read_weights(path)["hm.2.bias"])


@pytest.mark.parametrize("name", ["centernet_resnet50", "resnet50"])
def test_without_weights_a_model_is_random_the_same_each_time_and_says_so(name, caplog):
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first, second = (load_model(name).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert len(caplog.records) == 2 and "random weights" in caplog.text and name in caplog.text
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_shipped_detector_needs_no_weights(caplog):
    assert shipped_weights("resnet18") is None and shipped_weights("centernet_resnet18") is None
    model = load_model("centernet_shapes")
    weights = shipped_weights("centernet_shapes")
    assert weights is not None
    labels = read_metadata(weights)["labels"].split(",")
    assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, len(labels), 16, 16)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"1 missing \(layer1.0.conv1.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda state: state.update({"layer1.1.bn2.bias": torch.zeros(5)}),
            r"1 of another shape \(layer1.1.bn2.bias \(5,\) instead of \(4,\)\)",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if key.startswith("layer4.1")],
            r"10 missing \(.*, \.\.\.\)",
        ),
    ],
)
def test_a_mismatch_names_the_keys(tiny, tmp_path, change, message):
    state = tiny.state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message) as caught:
        load_model("centernet_resnet18", tmp_path / "w.pth")
    assert "w.pth" in str(caught.value) and "package.module:factory" in str(caught.value)


def test_weights_of_another_model_are_refused(tiny, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "w.safetensors")
    for name in ("centernet_resnet34", "centernet_resnet50", "resnet18"):
        with pytest.raises(ModelError, match=r"w\.safetensors does not fit " + name):
            load_model(name, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        Exploit,
        lambda: {"state_dict": {"a": torch.zeros(1)}, "hook": Exploit()},
        tiny_centernet,
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_objects_is_never_run(tmp_path, content, zipped):
    torch.save(content(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"w\.pth: holds Python objects.*save model\.state_dict\(\).*safetensors"):
        load_model("centernet_resnet18", tmp_path / "w.pth")


def test_a_plain_pickle_of_objects_is_never_run(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(InputError, match=r"w\.pth: "):
        load_model("centernet_resnet18", tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_a_torchscript_archive_is_told_what_it_is(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)).save(tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w\.pt: is a TorchScript archive, .* save its state_dict\(\) alone"):
        load_model("clip_vit_b_32", tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 5, 100, -10_000, -1])
def test_truncated_files_are_refused(tiny, tmp_path, suffix, kept):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".safetensors":
        save_file(tiny.state_dict(), whole)
    else:
        torch.save(tiny.state_dict(), whole)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\..*: cannot be read as weights .*truncated or of another kind"):
        load_model("centernet_resnet18", path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_other_kinds_of_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"<!DOCTYPE html><html>404 not found</html>" * 100)
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_model("centernet_resnet18", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds an object of type Tensor"),
        ([torch.zeros(3)], "holds an object of type list"),
        ({}, "wanted named tensors"),
        ({"state_dict": {}}, "wanted named tensors"),
        ({"epoch": 3, "weights": torch.zeros(1)}, "entry 'epoch' is an object of type int; wanted tensors only"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load_model("resnet18", tmp_path / "w.pth")


def test_missing_files_and_unknown_suffixes_are_refused(tmp_path):
    (tmp_path / "w.ckpt").write_bytes(b"")
    for read in (read_weights, read_metadata):
        with pytest.raises(InputError, match=r"absent\.pth: no such file"):
            read(tmp_path / "absent.pth")
        with pytest.raises(InputError, match=r"w\.ckpt: .*wanted \.safetensors, \.pth or \.pt"):
            read(tmp_path / "w.ckpt")
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path)


def test_metadata_is_read_from_safetensors_only(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "with.safetensors", metadata={"labels": "cat,dog"})
    save_file({"a": torch.zeros(1)}, tmp_path / "without.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    assert read_metadata(tmp_path / "with.safetensors") == {"labels": "cat,dog"}
    assert read_metadata(tmp_path / "without.safetensors") == {}
    assert read_metadata(tmp_path / "w.pth") == {}
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_metadata(tmp_path / "bad.safetensors")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown model 'centernet_resnet20'") as caught:
        load_model("centernet_resnet20")
    assert all(name in str(caught.value) for name in zoo_names())


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_factories.py").write_text(
        "import torch\n"
        "def good():\n    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout())\n"
        "def nothing():\n    return None\n"
        "def failing():\n    return 1 / 0\n"
        "def wants_more(size):\n    return None\n"
        "number = 3\n"
        "def fetching(pretrained=True, size=4):\n"
        "    from urllib.error import URLError\n"
        "    if pretrained:\n"
        "        raise URLError('no route')\n"
        "    return torch.nn.Linear(2, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_factory_is_called_and_may_get_weights(factories, caplog):
    model = load_model("my_factories:good")
    assert not model.training and not caplog.records
    weights = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3)}
    torch.save(weights, factories / "w.pth")
    assert load_model("my_factories:good", factories / "w.pth")(torch.ones(1, 2)).tolist() == [[3, 3, 3]]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", ModelError, r"nothing\(\) returned an object of type NoneType; wanted a torch.nn.Module"),
        ("failing", ModelError, r"failing\(\) failed: ZeroDivisionError"),
        ("wants_more", ModelError, r"wants_more\(\) failed: TypeError"),
        ("number", ModelError, "is an object of type int; wanted a function"),
        ("absent", InputError, "has no 'absent'"),
    ],
)
def test_a_factory_that_gives_no_module_is_refused(factories, name, error, message):
    with pytest.raises(error, match=message):
        load_model(f"my_factories:{name}")


def test_weights_that_are_given_are_not_downloaded_too(factories):
    with pytest.raises(ModelError, match=r"fetching\(\) could not download what it needs \(no route\); give `weights`"):
        load_model("my_factories:fetching")
    torch.save({"weight": torch.ones(3, 2), "bias": torch.ones(3)}, factories / "w.pth")
    assert load_model("my_factories:fetching", factories / "w.pth")(torch.ones(1, 2)).tolist() == [[3, 3, 3]]


def test_a_detector_of_torchvision_gets_no_trained_backbone(monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    reference = "torchvision.models.detection:ssdlite320_mobilenet_v3_large"
    assert type(load_model(reference)).__name__ == "SSD"
    assert caplog.messages == [
        f"{reference} has random weights: its speed is real, its outputs are not; give `weights` FILE"
    ]
