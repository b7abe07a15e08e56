"""Compiled code goes into a folder of its own for the tests, the same for all of them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STIFFML_CACHE", str(tmp_path_factory.mktemp("compiled")))
        yield
