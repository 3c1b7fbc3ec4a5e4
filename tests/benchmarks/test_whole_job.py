import json
import sys

import pytest

from benchmarks import whole_job
from benchmarks.whole_job import Job, main, run_job
from seg_core.nifti import write_volume

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_steps_profile_and_the_network_beside(make_legs, tiny_model, tmp_path, capsys):
    write_volume(tmp_path / "legs.nii.gz", make_legs()[0])
    arguments = ["--model", str(tiny_model), "--scan", str(tmp_path / "legs.nii.gz"), "--samples", "2"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1  # so small a network is no goal
    facts = json.loads((tmp_path / "out" / "whole_job.json").read_text())
    assert facts["slices"] == 40
    assert {"read", "segment", "write", "mesh", "draw", "check", "segment: infer"} <= set(facts["steps"])
    assert facts["precision"] == "fp32"
    assert all(
        a["time_s"] < b["time_s"] for a, b in zip(facts["profile"], facts["profile"][1:], strict=False)
    )
    assert max(s["memory_gb"] for s in facts["profile"]) > 0.05
    assert (tmp_path / "out" / "profile.png").stat().st_size > 1000
    assert "| whole `lls segment` |" in capsys.readouterr().out


def test_a_job_that_fails_is_no_figure(tiny_model, tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        run_job(tmp_path / "none", str(tiny_model), "auto", tmp_path / "out")


def test_the_first_job_is_not_measured(tmp_path, monkeypatch, capsys):
    done = []

    def job(scan, model, precision, out):
        done.append(out.name)
        out.mkdir()
        (out / "job_report.json").write_text(json.dumps({"scan": {"shape": [1, 1, 10]}}))
        return Job(100.0 if out.name == "first" else 1.0, 1.0, {}, 1.0, "fp32", [])

    def network(model, scan, samples):
        done.append("network")
        return [1.0]

    monkeypatch.setattr(whole_job, "run_job", job)
    monkeypatch.setattr(whole_job, "network_seconds", network)
    assert main(["--scan", str(tmp_path)]) == 0
    assert done == ["network", "first", "out", "network"]
    assert "| whole `lls segment` | **0.100** |" in capsys.readouterr().out
