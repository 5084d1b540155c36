"""Every config composes, and wrong ones fail while they are composed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipdissect import similarity
from clipdissect.app.help import COMMANDS, RUNNERS, conf_folder, group_folders, runner_help, usage
from clipdissect.app.schema import OPTIONS as GROUPS
from clipdissect.app.schema import register, schema_of
from clipdissect.app.user_errors import explain
from clipdissect.errors import DissectError
from clipdissect.targets.preprocess import KEYS
from clipdissect.targets.torchvision import PRESETS, default_layers

CONF = conf_folder()
OPTIONS = sorted(
    (path.parent.name, path.stem) for folder in group_folders() for path in folder.glob("*.yaml")
)
BY_GROUP = {
    group: [name for _, name in options]
    for group, options in groupby(OPTIONS, key=lambda option: option[0])
}
SEARCHES = [option for group, option in OPTIONS if option.startswith("tune_")]
# Values that the user must give, where any text won't do.
GIVEN = {
    ("target", "torchvision"): ["target.model=resnet18"],
    ("target", "timm"): ["target.model=resnet18"],
    ("experiment", "lite0_classes"): ["probe.root=x"],
    ("experiment", "missing_concepts_offline"): ["probe.root=x"],
    ("experiment", "class_from_descriptions_offline"): ["probe.root=x"],
    ("experiment", "offline_tables"): [
        "comparison.probes.imagenet_sample.root=x",
        "comparison.probes.tiny_imagenet_val.root=y",
    ],
    ("probe", "union"): ["probe.parts=[stamps,{name: folder, root: images}]"],
    ("concepts", "union"): ["concepts.parts=[imagenet,{name: file, path: words.txt}]"],
}


def given(group: str, option: str) -> list[str]:
    """Overrides that set what an option's file leaves to the user."""
    if (group, option) in GIVEN or group not in GROUPS:
        return GIVEN.get((group, option), [])
    values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    hints = get_type_hints(schema_of(values["name"], GROUPS[group][values["name"]]))
    examples = {int: "1", float: "1.5", bool: "true"}
    return [
        f"{group}.{name}="
        + ("[x,y]" if "list" in str(hints[name]) else examples.get(hints[name], "x"))
        for name, value in values.items()
        if value == "???"
    ]


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> Any:
    config = compose("config", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def needs_extra(option: str) -> None:
    """Skip where an option's packages aren't installed."""
    if option in SEARCHES:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")


# Options of the library's groups, one of each group at a time; of the other groups one by one.
TOGETHER = [
    [(group, names[n % len(names)]) for group, names in BY_GROUP.items() if group in GROUPS]
    for n in range(max(map(len, BY_GROUP.values())))
]
ALONE = [[(group, name)] for group, name in OPTIONS if group not in (*GROUPS, "experiment")]


@pytest.mark.parametrize("options", [*TOGETHER, *ALONE], ids=str)
def test_every_option_composes(options: list[tuple[str, str]]) -> None:
    for _, name in options:
        needs_extra(name)
    chosen = [f"{group}={name}" for group, name in options]
    config = composed(*chosen, *(value for option in options for value in given(*option)))
    assert config["top"] == 5
    for group, name in options:
        if group in GROUPS:
            written = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())["name"]
            assert config[group]["name"] == written


def test_all_options_are_composed() -> None:
    composed_here = {option for options in [*TOGETHER, *ALONE] for option in options}
    assert composed_here == {(group, name) for group, name in OPTIONS if group != "experiment"}


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in GROUPS])
def test_yaml_lists_every_parameter_of_its_function(group: str, option: str) -> None:
    values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    schema = schema_of(values["name"], GROUPS[group][values["name"]])
    assert set(values) - {"defaults"} == set(schema.__dataclass_fields__)
    assert values["defaults"] == [f"/schema/{group}/{values['name']}@_here_", "_self_"]


@pytest.mark.parametrize("name", similarity.OPTIONS)
def test_yaml_defaults_of_similarity_are_the_functions(name: str) -> None:
    config = composed(f"similarity={name}")["similarity"]
    config.pop("name")
    assert config == similarity.build(name).parameters


def test_every_library_option_is_on_the_command_line() -> None:
    for group, options in GROUPS.items():
        named = {yaml.safe_load(p.read_text())["name"] for p in (CONF / group).glob("*.yaml")}
        assert named == set(options), group


@pytest.mark.parametrize("name", similarity.OPTIONS)
def test_offline_profile_composes_with_every_similarity(name: str) -> None:
    config = composed("profile=offline", f"similarity={name}")
    assert config["target"]["name"] == "efficientnet_lite0"
    assert config["encoder"]["name"] == "conse"
    if "top_k" in config["similarity"]:
        assert config["similarity"]["top_k"] == 20
        changed = composed("profile=offline", f"similarity={name}", "similarity.top_k=7")
        assert changed["similarity"]["top_k"] == 7


def pairs() -> Iterator[tuple[str, str]]:
    """Yield experiments with each similarity function if they set one, else with one of them."""
    names = list(similarity.OPTIONS)
    for number, experiment in enumerate(BY_GROUP["experiment"]):
        text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
        sets_one = re.search(r"^ *(- override /)?similarity(\.\w+)?:", text, re.MULTILINE)
        for name in names if sets_one else [names[number % len(names)]]:
            yield experiment, name


@pytest.mark.parametrize(("experiment", "name"), [*pairs()])
def test_experiments_compose_with_similarity_functions(experiment: str, name: str) -> None:
    needs_extra(experiment)
    config = composed(
        f"experiment={experiment}", f"similarity={name}", *given("experiment", experiment)
    )
    assert config["similarity"]["name"] == name


def test_command_line_wins_over_the_profile() -> None:
    config = composed("profile=offline", "probe=photos", "target=resnet50")
    assert config["probe"]["name"] == "photos"
    assert config["target"]["name"] == "resnet50"
    assert config["concepts"]["name"] == "wordfreq_20k"


def test_defaults_are_the_papers() -> None:
    config = composed()
    assert config["target"]["weights"] == "IMAGENET1K_V1"
    assert config["target"]["layers"] == ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert config["similarity"]["name"] == "soft_wpmi"
    assert config["similarity"]["top_k"] == 100
    assert [config[g]["name"] for g in ("probe", "concepts", "encoder", "sentence")] == [
        "broden",
        "google_20k",
        "clip_vit_b16",
        "mpnet",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("similarity.topk=5", r"similarity\.topk.*Did you mean similarity\.top_k"),
        ("similarity.top_k=many", r"similarity\.top_k: .*'many'"),
        ("target.layer=[fc]", r"Did you mean target\.layers"),
        ("tpo=3", "Did you mean top"),
        ("capture.device.x=3", "capture"),
        ("probe=stamp", r"unknown option of probe 'stamp'.*stamps"),
        ("top=[1]", "top"),
        ("similarity.a=1=2=[", "similarity.a can.t be read"),
        ("target.layers=layer4", r"target\.layers must be a list, such as target\.layers=\[a,b\]"),
    ],
)
def test_wrong_config_fails_at_composition_in_plain_words(override: str, says: str) -> None:
    with pytest.raises(Exception) as caught:
        composed(override)
    message = explain(caught.value)
    assert message is not None
    assert re.search(says, message, re.DOTALL), message
    assert "Traceback" not in message


def test_values_of_any_type_can_be_given() -> None:
    config = composed(
        "encoder.templates=['a photo of a {}.','{}']",
        "sentence=clip_text",
        "sentence.parameters={checkpoint: /path, long_texts: error}",
    )
    assert config["encoder"]["templates"] == ["a photo of a {}.", "{}"]
    assert config["sentence"]["parameters"] == {"checkpoint": "/path", "long_texts": "error"}


def test_value_that_must_be_set_is_named() -> None:
    with pytest.raises(Exception) as caught:
        composed("probe=folder")
    assert explain(caught.value) == "probe.root must be set: add probe.root=<value>"


def test_faults_of_ours_are_not_explained_away() -> None:
    assert explain(ZeroDivisionError("x")) is None
    assert explain(DissectError("do this")) == "do this"


def test_help_lists_runners_groups_and_options() -> None:
    assert all(name in usage() for name in (*RUNNERS, *COMMANDS))
    text = runner_help("dissect")
    assert all(option in text for _, option in OPTIONS)
    assert str(Path(CONF)) in text


def space_of(experiment: str, *overrides: str) -> tuple[Any, dict[str, Any]]:
    """A search's config, and its parameters' distributions as Optuna gets them."""
    from hydra.core.hydra_config import HydraConfig
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    config = compose("config", [f"experiment={experiment}", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    sweeper = config.hydra.sweeper
    space, fixed = create_params_from_overrides([f"{k}={v}" for k, v in sweeper.params.items()])
    assert fixed == {}
    return config, space


@pytest.mark.parametrize("profile", ["offline", "paper"])
@pytest.mark.parametrize("experiment", SEARCHES)
def test_ends_of_search_spaces_are_valid(experiment: str, profile: str) -> None:
    needs_extra(experiment)
    config, space = space_of(experiment, f"profile={profile}")
    assert str(config.objective) == {"offline": "minilm_cos", "paper": "mpnet_cos"}[profile]
    assert list(config.target.layers) == {"offline": ["classifier"], "paper": ["fc"]}[profile]
    name = experiment.removeprefix("tune_")
    assert config.similarity.name == name
    for end in ("low", "high"):
        values = {key.split(".")[1]: getattr(found, end) for key, found in space.items()}
        similarity.build(name, **values)  # integers are integers, ranges are kept


@pytest.mark.parametrize("option", ["launcher=joblob", "sweeper=optima"])
def test_missing_launchers_name_the_extra(option: str) -> None:
    with pytest.raises(Exception) as caught:
        composed(f"hydra/{option}")
    assert "pip install -e '.[sweep]'" in str(explain(caught.value))


def agent_arguments(pick: str) -> list[str]:
    """Arguments as the agent of `wandb sweep` passes them, at one end of the space."""
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((CONF / "wandb" / "sweep.yaml").read_text())
    assert sweep["command"][-1] == "${args_no_hyphens}"
    values = {
        key: {"value": about["value"] if "value" in about else about[pick]}
        for key, about in sweep["parameters"].items()
    }
    arguments: list[str] = sweeps.create_sweep_command_args({"args": values})["args_no_hyphens"]
    return arguments


@pytest.mark.parametrize("pick", ["min", "max"])
def test_wandb_agents_call_the_runner_right(pick: str) -> None:
    config = composed(*agent_arguments(pick))
    assert config["tracking"]["mode"] == "online"
    assert config["objective"] == f"{config['sentence']['name']}_cos"
    assert config["target"]["layers"] == ["classifier"]
    similarity.build(**config["similarity"])


def test_wandb_space_is_the_search_space() -> None:
    needs_extra("tune_soft_wpmi")
    _, space = space_of("tune_soft_wpmi", "profile=offline")
    sweep = yaml.safe_load((CONF / "wandb" / "sweep.yaml").read_text())
    listed = {key: about for key, about in sweep["parameters"].items() if "min" in about}
    assert {key: (about["min"], about["max"]) for key, about in listed.items()} == {
        key: (found.low, found.high) for key, found in space.items()
    }
    kinds = {"int_uniform": "IntUniform", "uniform": "Uniform", "log_uniform_values": "LogUniform"}
    for key, about in listed.items():
        assert type(space[key]).__name__ == f"{kinds[about['distribution']]}Distribution", key
    assert sweep["metric"] == {"name": "objective/tuning", "goal": "maximize"}
    assert (sweep["program"], sweep["command"][2:4]) == (
        "experiments.dissect",
        ["-m", "${program}"],
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_torchvision_are_the_tables(name: str) -> None:
    config = composed(f"target={name}")["target"]
    assert config == {
        "name": name,
        "weights": "IMAGENET1K_V1",
        "checkpoint": None,
        "layers": list(default_layers(name)),
    }


@pytest.mark.parametrize("option", ["module", "checkpoint", "hub_dir", "exported"])
def test_options_of_own_networks_are_set_by_name(option: str) -> None:
    required = given("target", option)
    extra = [
        "target.layers=[layer*,blocks.*.mlp.fc1]",
        "target.preprocess.image_size=160",
        "target.preprocess.mean=[0.5,0.5,0.5]",
    ]
    config = composed(f"target={option}", *required, *extra)["target"]
    assert config["layers"] == ["layer*", "blocks.*.mlp.fc1"]
    assert {k: v for k, v in config["preprocess"].items() if v} == {
        "image_size": 160,
        "mean": [0.5, 0.5, 0.5],
    }
    assert set(config["preprocess"]) == set(KEYS)
    if "arguments" in config:
        changed = composed(
            f"target={option}", *required, "target.arguments={width: 8, deep: {a: [1]}}"
        )
        assert changed["target"]["arguments"] == {"width": 8, "deep": {"a": [1]}}
        plus = composed(f"target={option}", *required, "+target.arguments.width=8")
        assert plus["target"]["arguments"] == {"width": 8}
        with pytest.raises(Exception) as caught:
            composed(f"target={option}", *required, "target.arguments.width=8")
        assert "+target.arguments.width=<value>" in str(explain(caught.value))
    with pytest.raises(Exception) as caught:
        composed(f"target={option}", *required, "target.preprocess.imagesize=3")
    assert "Did you mean target.preprocess.image_size" in str(explain(caught.value))


# What the extra `offline` and the required packages bring.
PACKAGED = {
    "concepts": {"wordfreq_3k", "wordfreq_10k", "wordfreq_20k", "imagenet"},
    "sentence": {"minilm"},
    "encoder": {"conse"},
    "target": {"efficientnet_lite0", "efficientnet_lite2"},
    "probe": {"stamps", "folder", "photos", "synthetic_broden"},
}


@pytest.mark.parametrize(
    "experiment",
    [o for g, o in OPTIONS if g == "experiment" and (o.endswith("_offline") or o == "demo")],
)
def test_offline_presets_need_nothing_but_packages(experiment: str) -> None:
    config = composed(f"experiment={experiment}", *given("experiment", experiment))
    assert {group: config[group]["name"] for group in PACKAGED} == {
        group: config[group]["name"]
        for group, names in PACKAGED.items()
        if config[group]["name"] in names
    }


def test_options_have_the_same_names_in_both_interfaces() -> None:
    for group in ("target", "probe", "concepts", "encoder", "similarity", "sentence"):
        assert {p.stem for p in (CONF / group).glob("*.yaml")} == set(GROUPS[group]), group
