"""What the documents promise is what the files say."""

import re
import tomllib
from importlib import import_module

from packaging.requirements import Requirement

from minieff.core.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_same_extras_are_installed_everywhere():
    learner = "-c constraints.txt -e '.[course,pronunciations]'"
    assert learner in README and learner in MAKEFILE
    assert "-e '.[course,pronunciations,verbs,pretrained,dev]'" in MAKEFILE
    environment = (ROOT / "environment.yml").read_text()
    assert "- -c constraints.txt" in environment and "- -e .[course,pronunciations]" in environment
    extras = {"course", "pronunciations", "verbs", "pretrained", "dev"}
    assert set(PROJECT["optional-dependencies"]) == extras
    for extras in re.findall(r"\.\[([a-z,]+)\]", README + environment + MAKEFILE):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_one_python_version_is_named_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    assert "Python 3.11 to 3.14" in README and "(3, 11) <= sys.version_info < (3, 15)" in MAKEFILE
    assert "python>=3.11,<3.15" in (ROOT / "environment.yml").read_text()


def test_every_dependency_is_pinned_to_a_version_that_fits():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line]
    pins = {Requirement(line).name.lower().replace("_", "-"): Requirement(line) for line in lines}
    wanted = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, wanted):
        (pin,) = pins[requirement.name.lower()].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version)


def test_readmes_files_lessons_and_targets_exist():
    for link in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)", README):
        assert (ROOT / "".join(link)).exists(), link
    headings = {line.lower().replace(" ", "-") for line in re.findall(r"^## (.+)$", README, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
    for lesson in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        assert f"notebooks/{lesson.name}" in README


def test_ci_calls_the_readmes_test_command():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("\nmake test")
    assert "\nmake test " in README


def test_the_readme_names_every_technique():
    (table,) = re.findall(r"\| family \| techniques \|\n\|---\|---\|\n(.*?)\n\n", README, re.S)
    parts = [part.stem for part in (ROOT / "minieff").iterdir() if not part.stem.startswith("_")]
    techniques = {name for name in parts if getattr(import_module(f"minieff.{name}"), "STAGE", None)}
    assert set(re.findall(r"`(\w+)`", table)) == techniques
