"""Run a Python command whose notebook kernels start warm: `warm_kernels.py -m pytest --nbval-lax notebooks`.

A third of a small notebook's time is the import of torch and of what draws, the same for each. Here each kernel is
forked from one process that has imported third-party libraries and done nothing else: kernels share these imports and
no state, and the package under test is imported by each anew. What every kernel starts as, `ipykernel_launcher`, is
this file again, by PYTHONPATH: a door that asks for the fork, hands signals on, and lives as long as the kernel.
Elsewhere than on Linux kernels start cold.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

IMPORTED = (
    "accelerate", "datasets", "ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot", "networkx", "onnxscript",
    "pandas", "pydantic", "scipy.stats", "seaborn", "torch", "torchmetrics", "torchvision.transforms.v2",
)  # fmt: skip


def door(address: str, arguments: list[str]) -> None:
    """Ask for a kernel and stand for it: its end is the end of this process, and the other way round."""
    jupyter = os.getppid()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        socket.send_fds(line, [b"."], [1, 2])  # what the kernel prints is printed where the door stands
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        line.sendall(json.dumps(request).encode() + b"\n")
        kernel = int(line.recv(32))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(kernel, number))
        line.settimeout(1)
        while os.getppid() == jupyter:  # a kernel does not outlive who started it
            with contextlib.suppress(TimeoutError):
                line.recv(1)  # nothing comes but the end
                return


def be_kernel(line: socket.socket) -> None:
    """In a forked process: be the kernel that the door asked for, to the end."""
    try:
        for number, output in enumerate(socket.recv_fds(line, 1, 2)[1], 1):
            os.dup2(output, number)
        request = json.loads(line.makefile().readline())
        del sys.path[0]  # the folder of this file
        os.setsid()  # a terminal's Ctrl-C is for Jupyter to hand on
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ.pop("JPY_PARENT_PID", None)  # the door is no parent
        threading.Thread(target=lambda: os._exit(len(line.recv(1))), daemon=True).start()
        line.sendall(str(os.getpid()).encode())
        sys.argv = ["kernel", *request["arguments"]]
        importlib.import_module("ipykernel.kernelapp").launch_new_instance()
    finally:
        os._exit(0)


def run(command: list[str]) -> int:
    """Run the command and fork a kernel whenever a door asks; return the command's exit code."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/kernels"
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.2)
        launcher = "import runpy, sys\nsys.argv[1:1] = '--door', {!r}\nrunpy.run_path({!r}, None, '__main__')\n"
        Path(folder, "ipykernel_launcher.py").write_text(launcher.format(address, __file__))
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel sets it
        for name in IMPORTED:
            importlib.import_module(name)
        # Imported outside of a kernel, pandas takes the process for a terminal, and prints wide tables otherwise.
        sys.modules["pandas"].set_option("display.max_columns", 20)
        # The one thread there is by now belongs to pyarrow's jemalloc, which is made for being forked.
        warnings.filterwarnings("ignore", r"This process .* is multi-threaded", DeprecationWarning)
        kernels: list[int] = []
        with subprocess.Popen([sys.executable, *command], env=environment) as process:
            while process.poll() is None:
                kernels = [kernel for kernel in kernels if os.waitpid(kernel, os.WNOHANG) == (0, 0)]
                try:
                    line, _ = listener.accept()
                except TimeoutError:
                    continue
                with line:
                    if (kernel := os.fork()) == 0:
                        be_kernel(line)
                kernels.append(kernel)
        return process.returncode


if __name__ == "__main__":
    if sys.argv[1:2] == ["--door"]:
        door(sys.argv[2], sys.argv[3:])
    elif sys.platform == "linux":
        sys.exit(run(sys.argv[1:]))
    else:  # libraries do not outlive a fork everywhere
        sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)
