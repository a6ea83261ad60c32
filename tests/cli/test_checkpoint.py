"""`edgeq export FOLDER --format gptq` on the command line: what is printed, its JSON, and options of files."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from edgeq.cli.app import app
from tests.exporting import nets
from tests.exporting.checkpoints.test_folder import save


def test_a_checkpoint_is_written_and_options_of_files_are_refused(tmp_path):
    save(tmp_path / "model", {
        "model.layers.0.up.weight": nets.normal(0, 16, 32), "lm_head.weight": nets.normal(1, 40, 32),
    })  # fmt: skip

    def run(*arguments: object):
        fixed = ["export", str(tmp_path / "model"), "--precision", "w4", "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, [*fixed, *map(str, arguments)])

    result = run("--format", "gptq", "--group-size", 32, "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    assert "gptq, 1 layer with weights of 4 bits in groups of 32, by rtn" in result.output
    assert "in FP16: lm_head, tables and norms" in result.output
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["layers"], written["left"], written["folder"]) == (1, ["lm_head"], str(tmp_path / "out"))
    assert (tmp_path / "out" / "config.json").is_file()
    for arguments, said in (
        (("--format", "gptq", "--keep", "Conv"), "--keep: is for files that engines run, and gptq is a checkpoint"),
        (("--format", "gptq", "--format", "awq"), "a checkpoint has one layout"),
        (("--skip", "lm_head"), "`skip`: is for checkpoints"),
        (("--format", "gptq", "--skip", "lm_haed"), "no module of the model is called so"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 1 and said in str(refused.exception)
