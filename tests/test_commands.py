"""The command line, and the snippets it prints."""

import subprocess
import sys

import pytest

from minieff import compose, doctor
from minieff.__main__ import main
from minieff.core.files import ROOT
from minieff.snippet import snippet

# for each technique, its use on a model that is not ours, in a file that starts with its snippet
USES = {
    "layerdrop": """
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4)
dropped = apply(encoder, p=1.0, where=is_a(nn.TransformerEncoderLayer))
x = torch.randn(2, 5, 16)
assert torch.equal(dropped(x), x)
small = finalize(dropped, keep=[0, 3])
assert len(small.layers) == 2
try:
    apply(encoder, p=0.5)
except ValueError as error:
    assert "where" in str(error)
else:
    raise AssertionError("matched a layer that is not there")
""",
    "scalar_quant": """
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
trained = apply(model, bits=4, p=0.5, generator=torch.Generator().manual_seed(0)).train()
x = torch.randn(9, 16)
trained(x).square().sum().backward()
small = finalize(trained)
assert small[0].weight.unique().numel() <= 15 * 32 and small[0].code.codes.shape == (32, 8)
assert torch.allclose(small(x), trained.eval()(x), atol=0.02)
""",
    "product_quant": """
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
trained = apply(model, p=0.5, block=4, proxy="exact", codewords=8).train()
x = torch.randn(9, 16)
trained(x).square().sum().backward()
project(trained)
coded = finalize(trained, block=4, codewords=128)
assert torch.allclose(coded(x), trained.eval()(x), atol=1e-5)
small = store(coded, bits=8)
assert small[0].code.codes.shape == (32, 4) and torch.allclose(small(x), coded(x), atol=0.1)
""",
}

ALONE = "import sys\nfor name in ('minieff', 'jaxtyping', 'safetensors'):\n    sys.modules[name] = None\n"


def techniques() -> list[str]:
    """Every module of the package that states a stage."""
    stems = [path.stem for path in (ROOT / "minieff").glob("*.py") if "\nSTAGE = " in path.read_text()]
    return sorted(stems)


@pytest.mark.parametrize("name", techniques())
def test_a_snippet_runs_alone_in_an_empty_folder(name, tmp_path):
    (tmp_path / "mine.py").write_text(ALONE + snippet(name) + USES[name])
    run = subprocess.run([sys.executable, "-I", "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", techniques())
def test_a_snippet_names_its_paper_and_licence(name):
    text = snippet(name)
    assert "arXiv" in text and "MIT" in text.splitlines()[0]
    defined = [line.split("(")[0] for line in text.splitlines() if line.startswith(("def ", "class "))]
    assert len(set(defined)) == len(defined), "two modules that it takes from use one name"
    assert "from minieff" not in text and "import minieff" not in text and "jaxtyping" not in text


def test_there_is_a_snippet_of_every_technique_and_of_nothing_else():
    assert sorted(USES) == techniques()
    assert all(compose.find(name).STAGE in compose.STAGES for name in techniques())
    for name in ("surgery", "nothing", "../layerdrop", ""):
        with pytest.raises(ValueError, match="technique"):
            snippet(name)


def test_a_mendable_error_is_one_line(capsys):
    assert main(["snippet", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: technique 'nothing'")


def test_doctor_finds_what_is_missing_and_says_how_to_mend_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "lost.toml").touch()
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL  trained model lost: git checkout") for line in printed)
    assert any(line.startswith("FAIL  a checkout of the course") for line in printed)
    assert any(line.startswith("OK    package torch") for line in printed)
    assert any(line.startswith("OK    package jupyterlab") for line in printed)
    assert not any("ruff" in line for line in printed)


def test_doctor_fails_a_package_that_is_absent_or_too_old():
    assert not doctor.installed(doctor.Requirement("minieff-does-not-exist"))
    assert not doctor.installed(doctor.Requirement("torch>=99"))
    assert doctor.installed(doctor.Requirement("torch>=2.6"))
