"""Where the real models and data are that only some machines have; tests that need them are skipped elsewhere."""

import os
from pathlib import Path

import pytest

pytest_plugins = ["gate_fixtures", "github_runner", "json_documents", "search_cases"]  # their fixtures

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NETADAPT_SHARED", REPOSITORY.parent / "shared"))


def _shared(name: str, contents: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {contents} in {folder} (set NETADAPT_SHARED)")
    return folder


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder with public ONNX models by several exporters."""
    return _shared("models", "real models")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets."""
    return _shared("data", "real data")


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """The folder with inputs that failed once."""
    return _shared("cases", "cases")


@pytest.fixture
def fixed_training_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training in float32 on one thread, instead of trying in a process of its own what is fastest at the moment."""
    from netadapt_onnx.training.settings import Settings

    monkeypatch.setattr("netadapt_onnx.training.choose_settings.choose", lambda *_, **__: Settings())
