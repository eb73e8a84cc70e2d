"""The command group: help, laziness, exit codes and messages, as a shell sees them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import labelstore
from labelstore.cli import output
from labelstore.cli.main import COMMANDS, main
from tests.support import commands

COMMAND = [sys.executable, "-m", "labelstore"]


def shell(*arguments, **more):
    return commands.run([*COMMAND, *arguments], timeout=60, **more)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "made.zarr"
    labelstore.write(path, np.zeros((3, 2, 1), dtype=int), np.full((3, 2, 1), 0.5), 4)
    return path


def test_help_lists_every_command_and_teaches_the_main_job():
    done = shell("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert summary in done.stdout
    for line in ("labelstore generate ", "labelstore inspect ", "soft_cross_entropy"):
        assert line in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_is_there_and_has_help(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"labelstore {name} " in done.output


def test_help_imports_no_heavy_library():
    code = """
import sys
from labelstore.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"numpy", "torch", "timm", "zarr", "rich", "PIL", "matplotlib", "jsonschema"}
print("LOADED", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_version():
    # An interpreter of its own.
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"labelstore, version {labelstore.__version__}"


def test_an_error_is_one_line_and_its_exit_code(tmp_path):
    done = shell("inspect", str(tmp_path / "absent.zarr"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: there is no store at ")
    assert done.stderr.count("\n") == 1


def test_a_wrong_request_exits_with_2(store):
    done = shell("inspect", str(store), "--low", "0.9", "--middle", "0.2")
    assert done.returncode == 2
    assert "low <= middle <= top" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_has_the_error_on_stdout_and_the_line_on_stderr(tmp_path):
    done = shell("inspect", "--json", str(tmp_path / "absent.zarr"))
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["error"]["kind"] == "not-found"
    assert done.stderr == f"Error: {document['error']['message']}\n"


@pytest.mark.parametrize(
    "arguments", [["inspekt"], ["inspect"], ["inspect", "x.zarr", "--no-such"], ["--no-such"]]
)
def test_what_click_refuses_exits_with_2(arguments):
    done = shell(*arguments)
    assert done.returncode == 2
    assert "Usage: labelstore" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_that_look_like_a_misspelt_one_are_named():
    done = shell("inspekt", "teacher.zarr", "--json")
    assert "there is no command 'inspekt': did you mean 'inspect'?" in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "usage"
    assert "did you mean 'inspect'?" in error["message"]
    assert "Error: there is no command 'zzz'.\n" in shell("zzz").stderr


def test_a_closed_pipe_is_quiet(store):
    piped = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} inspect {store} --json | head -c 1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert piped.stdout == "{"
    assert piped.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_an_interrupted_generate_says_that_it_can_go_on(tmp_path):
    (tmp_path / "slow_teacher.py").write_text(
        "import time\ndef make():\n    print('loading', flush=True)\n    time.sleep(60)\n"
    )
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "grey.png")
    arguments = ["generate", "photos", "--teacher", "python:slow_teacher:make", "--views", "1"]
    patience = time.monotonic() + 50
    with commands.start(
        [*COMMAND, *arguments, "--targets", "none", "-o", "out.zarr"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout.readline() == "loading\n"
        # Python drops an interrupt that meets a destructor: whoever waits presses the keys again.
        while running.poll() is None and time.monotonic() < patience:
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(10)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert errors.splitlines()[-1] == (
        "Interrupted: what was committed is kept, and the same command goes on from there."
    )
    assert "Traceback" not in errors


class Clock:
    """Seconds that a test moves on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_progress_rates_leave_out_what_an_earlier_run_did():
    clock = Clock()
    meter = output.ProgressMeter(1000, 10, clock=clock)
    meter.resumed(400)
    clock.now += 10
    meter.update(images=20, views=200)
    assert (meter.images, meter.views) == (420, 4200)
    assert meter.rates == (2.0, 20.0)
    assert meter.left == pytest.approx((10000 - 4200) / 20)
    assert meter.line() == (
        "420 of 1,000 images, 2.0 images/s, 20 views/s, 0:00:10 elapsed, 0:04:50 left"
    )


def test_nothing_is_left_when_images_were_left_out():
    clock = Clock()
    meter = output.ProgressMeter(3, 10, clock=clock)
    for views in (10, 0, 10):
        clock.now += 1
        meter.update(images=1, views=views)
    assert meter.left == 0


def test_progress_rates_follow_a_machine_that_slows_down():
    clock = Clock()
    meter = output.ProgressMeter(100_000, 1, clock=clock)
    for _ in range(300):
        clock.now += 1
        meter.update(images=10, views=10)
    assert meter.rates == pytest.approx((10, 10))
    for _ in range(120):
        clock.now += 1
        meter.update(images=1, views=1)
    assert meter.rates == pytest.approx((1, 1))


def test_progress_off_a_terminal_is_a_line_at_the_end(capsys):
    with output.progress(total_images=4, views_per_image=5) as progress:
        for _ in range(4):
            progress.update(images=1, views=5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("4 of 4 images, ")


def test_progress_counts_resumed_images(capsys):
    with output.progress(total_images=4, views_per_image=5, done_images=3) as progress:
        progress.update(images=1, views=5)
    assert capsys.readouterr().err.startswith("4 of 4 images, ")


@pytest.mark.parametrize("mode", ["quiet", "brief"])
def test_progress_may_be_silent(capsys, mode):
    with output.progress(4, 5, **{mode: True}) as progress:
        progress.update(images=4, views=20)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar():
    pty = pytest.importorskip("pty")
    code = (
        "from labelstore.cli import output\n"
        "with output.progress(total_images=8, views_per_image=5) as progress:\n"
        "    for _ in range(8):\n"
        "        progress.update(images=1, views=5)\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm"}
    command = [sys.executable, "-c", code]
    assert commands.start(command, stderr=follower, env=environment).wait(60) == 0
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux: nobody holds the other end any more.
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    text = shown.decode()
    assert "100%" in text
    assert "8/8 images" in text
