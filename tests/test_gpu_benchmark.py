"""What no machine of ours can measure runs at least: every section, in small."""

import pytest

from benchmarks import gpu


@pytest.mark.parametrize("name", gpu.SECTIONS)
def test_a_section_runs(name):
    rows = list(gpu.measure([name], gpu.SMALL))
    assert rows and not any("failed" in row.name for row in rows), rows


def test_a_section_that_fails_is_a_row_that_falls_short(monkeypatch):
    def broken(size):
        raise ValueError("no kernel")

    monkeypatch.setitem(gpu.SECTIONS, "chunks", broken)
    (row,) = gpu.measure(["chunks"], gpu.SMALL)
    assert "chunks failed: ValueError: no kernel" in row.name
    assert row.verdict == "falls short"
