import pytest
from planted_chinese import plant_chinese

from emotrace.study.languages import writing_systems


@pytest.fixture(autouse=True)
def _few_tokens_are_enough(monkeypatch):
    monkeypatch.setattr(writing_systems, "MIN_HAN_TOKENS", 100)


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """The model of ``planted_chinese`` and its vectors."""
    return plant_chinese(tmp_path_factory.mktemp("planted"))
