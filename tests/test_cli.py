from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import ganglion
from ganglion.command_line import COMMANDS
from runtime.contract import Contract
from tests.runtime.replay.recording import Recording
from tests.runtime.replay.test_raw_mode import drive, turtlebot
from tests.tiny_bundle import tiny_contract, write_tiny_bundle

ROOT = Path(__file__).resolve().parents[1]

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import ganglion
sys.exit(ganglion.main({arguments!r}))
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = ganglion.main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def blocked(modules: tuple[str, ...], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own that cannot import `modules`."""
    code = BLOCKER.format(blocked=modules, arguments=[str(a) for a in arguments])
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_lists_every_command(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    named = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    simulated = {"tasks", "train", "sweep", "export", "eval", "view", "video", "sim", "collect", "ope"}
    assert named == simulated | {"inspect", "diff", "keygen", "sign", "bench", "run", "preflight", "demo"} | {
        "status",
        "stop",
        "engage",
        "record",
        "replay",
        "compare",
    }
    assert max(len(line) for line in out.splitlines()) <= 120


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        ganglion.main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: ganglion {command}" in out
    assert "{None}" not in out


def test_no_command_is_an_error(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert out == ""
    assert err.startswith("usage: ganglion COMMAND")


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"ganglion {ganglion.__version__}\n", "")
    assert f"<version>{ganglion.__version__}</version>" in (ROOT / "package.xml").read_text()


def test_tasks(run: Run) -> None:
    code, out, _ = run("tasks")
    assert code == 0
    assert "cartpole" in out
    assert "end_effector 3" in out


def test_inspect(run: Run, kuka_path: Path) -> None:
    code, out, _ = run("inspect", kuka_path)
    assert code == 0
    for text in ("kuka_reach, kuka_iiwa at 100 Hz", "K = 2 by default, 8 at most", "lbr_iiwa_joint_7", "1.5 rad/s"):
        assert text in out


def test_inspect_as_json_is_the_contract_and_the_file(run: Run, kuka_path: Path) -> None:
    code, out, _ = run("inspect", kuka_path, "--json")
    assert code == 0
    shown = json.loads(out)
    assert Contract.from_json(json.dumps(shown["contract"])).robot == "kuka_iiwa"
    file = shown["file"]
    assert (file["ir_version"], file["opsets"], file["onnxruntime"]) == (9, {"ai.onnx": 17}, "1.16")
    assert file["operators"]["Mul"] == 4
    assert (file["signed_by"], file["signature_verified"]) == ("", False)


def test_diff_tells_whether_a_robot_would_notice(
    run: Run, kuka_path: Path, cartpole_path: Path, tmp_path: Path
) -> None:
    code, out, _ = run("diff", kuka_path, cartpole_path, "--json", tmp_path / "diff.json")
    assert code == 1
    assert "differ for a robot" in out
    assert "contract.robot" in out
    result = json.loads((tmp_path / "diff.json").read_text())
    assert result["noticed"]
    (robot,) = (d for d in result["differences"] if d["where"] == "contract.robot")
    assert (robot["first"], robot["noticed"]) == ("kuka_iiwa", True)
    code, out, _ = run("diff", kuka_path, kuka_path)
    assert code == 0
    assert "are the same for a robot" in out


def test_a_bundle_is_signed_and_unsigned_ones_are_refused(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    file, key = tmp_path / "kuka.onnx", tmp_path / "keys" / "fleet"
    file.write_bytes(kuka_path.read_bytes())
    code, out, _ = run("keygen", key)
    assert code == 0
    assert f"next: ganglion sign FILE --key {key}" in " ".join(out.split())
    code, _, err = run("inspect", file, "--trusted-keys", f"{key}.pub")
    assert code == 2
    assert "is not signed" in err
    assert run("sign", file, "--key", key)[0] == 0
    code, out, _ = run("inspect", file, "--trusted-keys", f"{key}.pub", "--json")
    assert code == 0
    shown = json.loads(out)["file"]
    assert (len(shown["signed_by"]), shown["signature_verified"]) == (64, True)
    assert f"by {shown['signed_by']}, not verified: give --trusted-keys" in " ".join(run("inspect", file)[1].split())
    assert run("diff", file, kuka_path)[0] == 0


def test_what_a_bundle_calls_its_parts_is_no_markup(run: Run, tmp_path: Path) -> None:
    contract = replace(tiny_contract("cartpole"), robot="[/red]")
    code, out, _ = run("inspect", write_tiny_bundle(tmp_path / "b.onnx", "cartpole", contract=contract))
    assert code == 0
    assert "[/red]" in out


def test_bench(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "bench.json"
    code, out, err = run("bench", kuka_path, "--refine", "0,8,16", "--ticks", "50", "--json", target)
    assert code == 0
    assert "notice: left out K above 8" in err
    assert "p99 µs" in out
    result = json.loads(target.read_text())
    assert set(result) == {"refine", "provider", "notice", "ticks"}
    assert list(result["refine"]) == ["0", "8"]
    assert (result["provider"], result["ticks"]) == ("cpu", 50)
    for times in result["refine"].values():
        assert 0 < times["p50_us"] <= times["p99_us"] <= times["max_us"] < 1e6
    assert [p.name for p in target.parent.iterdir()] == ["bench.json"]


def test_eval(run: Run, cartpole_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "eval.json"
    options = ("--episodes", "2", "--refine", "0,1", "--faults", "nominal,lost:joint_velocity", "--json", target)
    code, out, _ = run("eval", cartpole_path, *options)
    assert code == 0
    assert "lost:joint_velocity" in out
    result = json.loads(target.read_text())
    assert result["task"] == "cartpole"
    assert len(result["results"]) == 4
    assert {"refine", "fault", "episodes", "return_mean", "return_ci95", "success_rate"} <= set(result["results"][0])


def test_replay(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    from runtime.bundle import Bundle

    recording = Recording(Bundle.load(kuka_path))
    recording.run(1, 120, seed=0)
    target = tmp_path / "replay.json"
    code, out, _ = run("replay", recording.write(tmp_path / "bag"), kuka_path, "--json", target)
    assert code == 0
    assert "actions identical" in out
    result = json.loads(target.read_text())
    assert (result["ticks"], result["bit_exact"], result["action_error"]) == (120, True, {"rmse": 0.0, "max": 0.0})
    assert result["realtime_factor"] > 0
    assert result["course"]["event_counts"]["masked"] > 0


def test_replay_writes_what_is_asked_for(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    from runtime.bundle import Bundle

    recording = Recording(Bundle.load(kuka_path))
    recording.run(1, 60, seed=0)
    bag = recording.write(tmp_path / "bag")
    files = {kind: tmp_path / f"ticks.{kind}" for kind in ("csv", "parquet", "mcap")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", path)]
    page = tmp_path / "page.html"
    code, out, _ = run("replay", bag, kuka_path, "--report", page, "--json", tmp_path / "r.json", *options)
    assert code == 0
    assert "look: masked 14 %" in out
    assert json.loads((tmp_path / "r.json").read_text())["verdict"]["state"] == "look"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert all(path.stat().st_size > 1000 for path in files.values())
    done = blocked(("pyarrow",), "replay", bag, kuka_path, "--parquet", files["parquet"])
    assert done.returncode == 2
    assert "pip install 'ganglion[parquet]'" in done.stderr


def test_compare(run: Run, cartpole_path: Path, tmp_path: Path) -> None:
    """Two of the same are equal; one of another robot is a row with what is wrong, and no end of the others."""
    base = write_tiny_bundle(tmp_path / "base.onnx", "cartpole", 0.0, turtlebot())
    bag = drive(tmp_path / "bag", seconds=1.0)
    page, target = tmp_path / "page.html", tmp_path / "compare.json"
    options = ("--bags", bag, "--workers", "1", "--report", page, "--json", target)
    code, out, _ = run("compare", base, base, cartpole_path, *options)
    assert code == 1
    assert "3 bundles on the same bags, 1 of 3 failed" in out
    found = json.loads(target.read_text())
    assert found["bundles"] == [str(p) for p in (base, base, cartpole_path)]
    first, second, other = found["replays"]
    assert [r["bundle"] for r in found["replays"]] == found["bundles"]
    assert first["result"]["per_joint"] == second["result"]["per_joint"] != {}
    assert other["error"]
    text = page.read_text()
    assert "equally near to the recorded commands" in text
    assert cartpole_path.name in text
    assert "-1 to 1 rad/s" in text, "each joint has a unit of its own"
    code, _, err = run("compare", base, "--bags", bag)
    assert code == 2
    assert "give two or more bundles" in err


def test_replay_of_many_bags(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    from runtime.bundle import Bundle

    recording = Recording(Bundle.load(kuka_path))
    recording.run(1, 40, seed=0)
    recording.write(tmp_path / "bags" / "good")
    (tmp_path / "bags" / "bad.mcap").write_text("no bag")
    target = tmp_path / "replay.json"
    options = ("--refine", "0,1", "--workers", "1", "--json", target)
    code, out, err = run("replay", tmp_path / "bags", kuka_path, *options)
    assert (code, err.strip()) == (1, "")
    assert f"4 replays on {kuka_path}, 2 failed" in out
    outcomes = json.loads(target.read_text())["replays"]
    assert [(Path(o["bag"]).name, o["refine"], bool(o["error"])) for o in outcomes] == [
        ("bad.mcap", 0, True), ("bad.mcap", 1, True), ("good", 0, False), ("good", 1, False),
    ]  # fmt: skip
    code, _, err = run("replay", tmp_path / "bags" / "bad.mcap", kuka_path)
    assert code == 2
    assert "bad.mcap holds no message that can be read" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["juggle"], "there is no command 'juggle'; expected one of tasks, train"),
        (["inspect", "none.onnx"], "cannot read the bundle none.onnx: No such file"),
        (["inspect", str(ROOT / "pyproject.toml")], "pyproject.toml is not a bundle"),
        (["bench", "KUKA", "--refine", "99"], "no K is left to measure: got [99], the bundle allows 0 to 8"),
        (["bench", "KUKA", "--ticks", "0"], "ticks is 0, expected at least 1"),
        (["bench", "KUKA", "--refine", "-1"], "refine is -1, expected 0 to 8"),
        (["eval", "KUKA", "--task", "cartpole"], "does not fit the task 'cartpole'"),
        (["eval", "KUKA", "--faults", "gremlins"], "fault 'gremlins' is not understood; expected KIND:TARGET"),
        (["replay", "nowhere", "KUKA"], "there is no bag at nowhere"),
        (["replay", "KUKA"], "give one or more bags and then a bundle: ganglion replay BAG… FILE"),
        (["replay", ".", "KUKA", "--clock", "wall"], "replay clock 'wall' is unknown; expected one of receive, header"),
        (["sim", "juggle"], "there is no task 'juggle'"),
        (["run", "none.onnx"], "cannot read the bundle none.onnx"),
        (["preflight", "none.onnx"], "cannot read the bundle none.onnx"),
        (["preflight", "KUKA", "--seconds", "99"], "seconds is 99, expected 0.2 to 60"),
        (["export", "nowhere", "-o", "x.onnx"], "nowhere is not a training run"),
        (["export", "KUKA", "-o", "x.onnx"], "which is fp32: expected a bundle of fp32 and one of fp16"),
        (["keygen", "KUKA"], "is there already; choose another name"),
        (["sign", "KUKA", "--key", "none"], "cannot read the key none: No such file"),
        (["run", "KUKA", "--trusted-keys", "none.pub"], "cannot read the key none.pub: No such file"),
        (["preflight", "KUKA", "--trusted-keys", "none.pub"], "cannot read the key none.pub: No such file"),
        (["replay", "bag", "KUKA", "--trusted-keys", "none.pub"], "cannot read the key none.pub: No such file"),
        (["train", "juggle"], "there is no task 'juggle'"),
        (["view", "."], "is not a training run"),
        (["video", ".", "-o", "x.mp4"], "is not a training run"),
        (["train", "--resume", "nowhere"], "nowhere is not a training run"),
        (["train", "--resume"], "ganglion train --resume RUN"),
        (["train", "cartpole", "--algo", "magic"], "there is no algorithm 'magic'; expected one of"),
        (
            ["train", "cartpole", "--algo", "sac", "--clip", "3"],
            "--clip is an option of --algo ppo, not of sac",
        ),
        (["train", "cartpole_push", "--algo", "sac"], "sac learns continuous actions"),
        (["train", "cartpole", "--gamma", "1.5"], "gamma is 1.5, expected a number above 0 and below 1"),
        (["train", "cartpole", "--learning-rate=-1"], "learning_rate is -1.0, expected a number above 0"),
        (["train", "cartpole", "--device", "abacus", "--output", "x"], "there is no device 'abacus' on this machine"),
        (["export", "KUKA", "-o", "x.onnx", "--best"], "is a bundle, which has no best checkpoint"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    run: Run,
    kuka_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*(str(kuka_path) if a == "KUKA" else a for a in arguments))
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(lines) == 1
    assert err.rstrip().endswith(lines[0])
    assert message in lines[0]


def test_options_that_do_not_parse(capsys: pytest.CaptureFixture[str], kuka_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        ganglion.main(["bench", str(kuka_path), "--refine", "a,b"])
    assert exit_.value.code == 2
    assert "got 'a,b', expected whole numbers separated by commas" in " ".join(capsys.readouterr().err.split())


def test_json_that_cannot_be_written(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("bench", kuka_path, "--ticks", "5", "--refine", "0", "--json", tmp_path / "file" / "b.json")
    assert code == 2
    assert "error: cannot write" in err


def test_json_replaces_the_old_file_at_once(run: Run, kuka_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.json"
    target.write_text("old")
    before = target.stat().st_ino
    assert run("bench", kuka_path, "--ticks", "5", "--refine", "0", "--json", target)[0] == 0
    assert target.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]
    assert json.loads(target.read_text())["ticks"] == 5


def test_interrupt_is_130(run: Run, kuka_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.bench.bench", interrupted)
    assert run("bench", kuka_path)[0] == 130


def test_the_robots_commands_need_no_torch_and_no_simulator(kuka_path: Path) -> None:
    away = ("torch", "pybullet", "gymnasium", "onnx", "rosbags", "rclpy", "matplotlib")
    for arguments in (["--help"], ["inspect", kuka_path], ["bench", kuka_path, "--ticks", "20"], ["tasks"]):
        done = blocked(away, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    ("module", "arguments", "advice"),
    [
        ("torch", ["train", "cartpole"], "this needs torch, which is not installed; pip install 'ganglion[train]'"),
        ("pybullet", ["eval", "KUKA"], "this needs pybullet, which is not installed; pip install 'ganglion[sim]'"),
        ("onnxruntime", ["inspect", "KUKA"], "pip install 'ganglion[cpu]'"),
        (
            "rosbags",
            ["replay", "BAG", "KUKA"],
            "this needs rosbags, which is not installed; pip install 'ganglion[replay]'",
        ),
        ("rclpy", ["run", "KUKA"], "source your ROS 2 installation, or pip install 'ganglion[ros]'"),
        ("rclpy", ["preflight", "KUKA"], "pip install 'ganglion[ros]'"),
        ("rclpy", ["sim", "cartpole"], "pip install 'ganglion[ros]'"),
        ("rclpy", ["demo"], "pip install 'ganglion[ros]'"),
        (
            "onnx",
            ["export", ".", "-o", "x.onnx"],
            "this needs onnx, which is not installed; pip install 'ganglion[export]'",
        ),
    ],
)
def test_what_is_not_installed_is_named(
    module: str, arguments: list[str], advice: str, kuka_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "bag.mcap").touch()
    stand_ins = {"KUKA": kuka_path, "BAG": tmp_path / "bag.mcap"}
    done = blocked((module,), *(stand_ins.get(a, a) for a in arguments))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert advice in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_as_a_module(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b.onnx", "cartpole")
    done = subprocess.run(
        [sys.executable, "-m", "ganglion", "inspect", str(bundle)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "slider_to_cart" in done.stdout
