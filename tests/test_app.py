"""app.py as a user starts it: one sentence for what cannot work, before anything is loaded; a line in the terminal at once."""

import socket
import subprocess
import sys
import time

import pytest

import app
from ddpm_app.paths import PROJECT


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--port", "99999"], "--port is 99999; a whole number from 1 to 65535 is accepted"),
        (["--port", "0"], "--port is 0; a whole number from 1 to 65535 is accepted"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid is not known"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7 cannot be used"),  # an address reserved for documentation
    ],
)
def test_an_address_that_cannot_work_is_refused_in_a_sentence(argv, says, capsys):
    assert app.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"app.py: {says}") and err.count("\n") == 1 and out == ""


def test_a_port_in_use_is_refused_in_a_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.main(["--port", str(port)]) == 2
    assert f"--port {port} cannot be used" in capsys.readouterr().err


def test_a_wrong_flag_is_refused_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        app.main(["--port", "x"])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.count("\n") == 1 and "usage" not in err and "--port" in err


def test_the_terminal_says_at_once_that_it_starts():
    process = subprocess.Popen([sys.executable, "app.py"], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        began = time.monotonic()
        assert process.stdout.readline().startswith("DDPM Studio starts")
        assert time.monotonic() - began < 10  # nothing large is imported before; Python itself is slow on a busy machine
    finally:
        process.kill()
        process.wait()
